"""Entries in JSON, as ``entry create -data`` reads them."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.cli.entry_file import read_entries
from spiffe_core.api.spire.api.types.entry_pb2 import Entry
from spiffe_core.runtime.cli.errors import CommandError

IDS = {"spiffe_id": "spiffe://example.org/w", "parent_id": "spiffe://example.org/p"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "entries.json"


def read(file: Path, document: object) -> list[Entry]:
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return read_entries(str(file))


def test_every_key_is_read_in_any_case(file):
    [entry] = read(
        file,
        {
            "Entries": [
                {
                    **IDS,
                    "Selectors": [{"Type": "unix", "value": "uid:1"}],
                    "entry_id": "e",
                    "x509_svid_ttl": 1,
                    "jwt_svid_ttl": 2,
                    "federates_with": ["spiffe://a.test", "b.test"],
                    "admin": True,
                    "downstream": True,
                    "entryExpiry": 3,
                    "dns_names": ["c.test"],
                    "revision_number": 4,
                    "store_svid": True,
                    "hint": "h",
                    "created_at": 5,
                    "additional_attributes": {"disable_x509_svid_prefetch": True, "jwt_svid_include_jti": True},
                    "unknown": {"a": []},
                }
            ]
        },
    )
    assert {name.name: value for name, value in entry.ListFields()}.keys() == {
        field.name for field in Entry.DESCRIPTOR.fields
    }
    assert (entry.x509_svid_ttl, entry.jwt_svid_ttl, entry.expires_at) == (1, 2, 3)
    assert list(entry.federates_with) == ["a.test", "b.test"]


def test_nulls_and_what_is_left_out_are_not_set(file):
    names = ("selectors", "dns_names", "federates_with", "admin", "hint", "additional_attributes")
    [entry] = read(file, {"entries": [{**IDS, **dict.fromkeys(names)}]})
    assert {field.name for field, _ in entry.ListFields()} == {"spiffe_id", "parent_id"}
    assert read(file, {"entries": None}) == []
    assert read(file, {}) == []


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ("{", "{} is no JSON: Expecting property name enclosed in double quotes"),
        ("", "{} is no JSON: Expecting value"),
        ("[" * 100_000, "{} is no JSON: maximum recursion depth exceeded"),
        ([], "the file is no object"),
        ({"entries": {}}, "entries is no array"),
        ({"entries": ""}, "entries is no array"),
        ({"entries": [1]}, "entries[0] is no object"),
        ({"entries": [{}]}, "invalid SPIFFE ID: SPIFFE ID cannot be empty"),
        ({"entries": [{"spiffe_id": 5}]}, "spiffe_id is no string"),
        ({"entries": [{"spiffe_id": IDS["spiffe_id"]}]}, "invalid parent ID: SPIFFE ID cannot be empty"),
        ({"entries": [{**IDS, "selectors": "x"}]}, "entries[0].selectors is no array"),
        ({"entries": [{**IDS, "selectors": {}}]}, "entries[0].selectors is no array"),
        ({"entries": [{**IDS, "selectors": ["a:b"]}]}, "entries[0].selectors is no object"),
        ({"entries": [{**IDS, "selectors": [{"type": 1}]}]}, "entries[0]: "),
        ({"entries": [{**IDS, "admin": 1}]}, "entries[0].admin is no boolean"),
        ({"entries": [{**IDS, "x509_svid_ttl": True}]}, "entries[0].x509_svid_ttl is no whole number"),
        ({"entries": [{**IDS, "x509_svid_ttl": 2**40}]}, "entries[0]: Value out of range: 1099511627776"),
        (
            {"entries": [{**IDS, "federates_with": ["A"]}]},
            "invalid federated trust domain: trust domain 'A' is invalid",
        ),
        ({"entries": [{**IDS, "federates_with": [1]}]}, "federates_with is no string"),
        ({"entries": [{**IDS, "dns_names": [1]}]}, "entries[0]: "),
        ({"entries": [{**IDS, "hint": "\ud800"}]}, "entries[0]: "),
        ({"entries": [{**IDS, "additional_attributes": []}]}, "entries[0].additional_attributes is no object"),
        ({"entries": [IDS, 1]}, "entries[1] is no object"),
    ],
)
def test_what_is_no_entry_is_refused_with_its_place(file, document, error):
    with pytest.raises(CommandError) as caught:
        read(file, document)
    assert caught.value.message.startswith(error.replace("{}", str(file)))


keys = st.sampled_from(
    ["entries", "spiffe_id", "parent_id", "selectors", "type", "value", "admin", "hint", "dns_names"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(list(IDS.values())),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(keys, values, max_size=3))
def test_any_document_is_read_or_refused(tmp_path_factory, document):
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_text(json.dumps({**document, "entries": [{**IDS, **document}]}))
    with contextlib.suppress(CommandError):
        assert len(read_entries(str(file))) == 1

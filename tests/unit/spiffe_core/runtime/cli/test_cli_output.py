"""Results as JSON in the shape of SPIRE's printer, and plurals."""

import json
from datetime import timedelta

import pytest
from google.protobuf.struct_pb2 import Struct

from spiffe_core.api.spire.api.server.agent.v1 import agent_pb2
from spiffe_core.api.spire.api.types.bundle_pb2 import Bundle, X509Certificate
from spiffe_core.api.spire.api.types.entry_pb2 import Entry
from spiffe_core.api.spire.api.types.logger_pb2 import Logger
from spiffe_core.runtime.cli.errors import CommandError
from spiffe_core.runtime.cli.numbers import int32, seconds
from spiffe_core.runtime.cli.output import echo_json, json_text, plural


def test_what_is_not_set_is_there_but_for_messages():
    assert json_text(Logger()) == '{"current_level":"UNSPECIFIED","launch_level":"UNSPECIFIED"}'
    found = json.loads(json_text(Entry()))
    assert found["selectors"] == []
    assert found["hint"] == ""
    assert found["admin"] is False
    assert not {"spiffe_id", "parent_id", "additional_attributes"} & found.keys()


def test_keys_are_sorted_big_numbers_are_texts_and_bytes_are_base64():
    bundle = Bundle(trust_domain="a", sequence_number=2**63, x509_authorities=[X509Certificate(asn1=b"\xfb\xff")])
    assert json_text(bundle) == (
        '{"jwt_authorities":[],"refresh_hint":"0","sequence_number":"9223372036854775808","trust_domain":"a",'
        '"wit_authorities":[],"x509_authorities":[{"asn1":"+/8=","tainted":false}]}'
    )


def test_whole_numbers_of_claims_are_written_as_such():
    claims = Struct()
    claims.update({"exp": 1795874040, "half": 0.5, "big": 1e21, "list": [1, {"n": 2}]})
    assert json_text(claims) == '{"big":1e+21,"exp":1795874040,"half":0.5,"list":[1,{"n":2}]}'


def test_several_results_are_an_array(capsys):
    echo_json(agent_pb2.CountAgentsResponse(count=1), {"b": 1, "a": "☃"})
    assert capsys.readouterr().out == '[{"count":1},{"b":1,"a":"☃"}]\n'


def test_no_browser_takes_a_result_for_markup(capsys):
    echo_json({"hint": "<a & b>\u2028"})
    assert capsys.readouterr().out == '{"hint":"\\u003ca \\u0026 b\\u003e\\u2028"}\n'


@pytest.mark.parametrize(("count", "text"), [(0, "0 entries"), (1, "1 entry"), (2, "2 entries")])
def test_one_is_no_plural(count, text):
    assert plural(count, "entry", "entries") == text


@pytest.mark.parametrize("value", [-(2**31), 0, 2**31 - 1])
def test_a_number_that_fits_is_taken(value):
    assert int32(value, "TTL") == value


@pytest.mark.parametrize("value", [-(2**31) - 1, 2**31])
def test_a_number_that_does_not_fit_is_refused(value):
    with pytest.raises(CommandError) as caught:
        int32(value, "TTL")
    assert caught.value.message == f"invalid value for TTL: overflow converting int({value}) to int32"


@pytest.mark.parametrize(
    ("value", "expected"), [(timedelta(), 0), (timedelta(milliseconds=1), 1), (timedelta(hours=1), 3600)]
)
def test_a_begun_second_counts(value, expected):
    assert seconds(value) == expected

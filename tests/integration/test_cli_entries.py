"""``steeple-server entry``, against a real server: texts, JSON, what goes to standard error, and exit codes."""

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from spiffe_core.runtime.cli.pem import pem
from tests.support.certificates import ca
from tests.support.cli_runs import CommandLine, Ran, server_cli
from tests.support.server_processes import server_process

PARENT = "spiffe://example.org/p"


@pytest.fixture(scope="module")
def cli() -> Iterator[CommandLine]:
    """The command line at a server that knows a bundle of other.test."""
    with server_process(key_manager='KeyManager "memory" {}') as process:
        process.start()
        found = server_cli("-socketPath", process.socket_path)
        bundle = pem("CERTIFICATE", [ca(uri="spiffe://other.test").der])
        assert found("bundle", "set", "-id", "other.test", stdin=bundle) == Ran(0, "bundle set.\n")
        yield found


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"n{uuid4().hex}"


def create(cli: CommandLine, name: str, *more: object) -> Ran:
    """Create an entry of that ID and SPIFFE ID, with a selector of its own."""
    spiffe_id = f"spiffe://example.org/{name}"
    return cli(
        *("entry", "create", "-entryID", name, "-parentID", PARENT, "-spiffeID", spiffe_id),
        *("-selector", f"unix:user:{name}", *more),
    )


def text(name: str, revision: int = 0, *, selectors: tuple[str, ...] = (), parent: str = PARENT, rest: str = "") -> str:
    """How such an entry is printed."""
    return (
        f"Entry ID                : {name}\n"
        f"SPIFFE ID               : spiffe://example.org/{name}\n"
        f"Parent ID               : {parent}\n"
        f"Revision                : {revision}\n"
        + (rest or "X509-SVID TTL           : default\nJWT-SVID TTL            : default\n")
        + "".join(f"Selector                : {one}\n" for one in selectors or (f"unix:user:{name}",))
        + "\n"
    )


# -- create ------------------------------------------------------------------------------------------------


def test_a_new_entry_is_printed(cli, name):
    assert create(cli, name) == Ran(0, text(name))


def test_an_entry_without_an_id_is_given_one(cli, name):
    spiffe_id = f"spiffe://example.org/{name}"
    ran = cli("entry", "create", "-parentID", PARENT, "-spiffeID", spiffe_id, "-selector", "a:b")
    assert ran.masked == Ran(0, text(name, selectors=("a:b",)).replace(f": {name}", ": <uuid>", 1))


def test_everything_that_an_entry_may_have_is_printed(cli, name):
    ran = create(
        cli,
        name,
        *("-selector", "a:b:c", "-x509SVIDTTL", 60, "-jwtSVIDTTL", 30, "-dns", "a.test", "-dns", "b.test"),
        *("-admin", "-downstream", "-entryExpiry", 4000000000, "-hint", 'é"\\ ☃', "-federatesWith", "other.test"),
        *("-jwtSVIDIncludeJTI", "-disableX509SVIDPrefetch"),
    )
    assert ran == Ran(
        0,
        f"Entry ID                : {name}\n"
        f"SPIFFE ID               : spiffe://example.org/{name}\n"
        f"Parent ID               : {PARENT}\n"
        "Revision                : 0\n"
        "Downstream              : true\n"
        "X509-SVID TTL           : 60\n"
        "JWT-SVID TTL            : 30\n"
        "Expiration time         : 2096-10-02 07:06:40 +0000 UTC\n"
        f"Selector                : unix:user:{name}\n"
        "Selector                : a:b:c\n"
        "FederatesWith           : other.test\n"
        "DNS name                : a.test\n"
        "DNS name                : b.test\n"
        "Admin                   : true\n"
        'Hint                    : é"\\ ☃\n'
        "DisableX509SvidPrefetch : true\n"
        "JwtSvidIncludeJti       : true\n\n",
    )


def test_an_entry_of_nodes_has_the_server_as_parent(cli, name):
    spiffe_id = f"spiffe://example.org/{name}"
    ran = cli("entry", "create", "-node", "-entryID", name, "-spiffeID", spiffe_id, "-selector", "a:b", "-storeSVID")
    parent = "spiffe://example.org/spire/server"
    expected = text(name, selectors=("a:b",), parent=parent)
    assert ran == Ran(0, expected.removesuffix("\n") + "StoreSvid               : true\n\n")


def test_json_has_every_field_on_one_line(cli, name):
    ran = create(cli, name, "-output", "json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith("}\n")
    assert ran.out.count("\n") == 1
    document = json.loads(ran.out)
    entry = document["results"][0]["entry"]
    assert entry.pop("created_at").isdigit()
    assert document == {
        "results": [
            {
                "entry": {
                    "admin": False,
                    "dns_names": [],
                    "downstream": False,
                    "expires_at": "0",
                    "federates_with": [],
                    "hint": "",
                    "id": name,
                    "jwt_svid_ttl": 0,
                    "parent_id": {"path": "/p", "trust_domain": "example.org"},
                    "revision_number": "0",
                    "selectors": [{"type": "unix", "value": f"user:{name}"}],
                    "spiffe_id": {"path": f"/{name}", "trust_domain": "example.org"},
                    "store_svid": False,
                    "x509_svid_ttl": 0,
                },
                "status": {"code": 0, "message": "OK"},
            }
        ]
    }


FAILED = "Error: failed to create one or more entries\n"


def test_an_entry_like_another_is_shown_as_it_was_sent(cli, name):
    create(cli, name)
    spiffe_id = f"spiffe://example.org/{name}"
    again = ("entry", "create", "-parentID", PARENT, "-spiffeID", spiffe_id, "-selector", f"unix:user:{name}")
    reason = 'Failed to create the following entry (code: AlreadyExists, msg: "similar entry already exists"):\n'
    assert cli(*again) == Ran(1, err=reason + text(name).replace(f": {name}", ": (none)", 1) + FAILED)
    quiet = cli(*again, "-output", "json")
    assert (quiet.code, quiet.err) == (0, "")
    assert json.loads(quiet.out)["results"][0]["status"] == {"code": 6, "message": "similar entry already exists"}


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["-entryID", "bad id"], "InvalidArgument", "failed to create entry: entry ID contains invalid characters"),
        (["-selector", "a:"], "InvalidArgument", "failed to convert entry: missing selector value"),
        (["-federatesWith", "unknown.test"], "Internal", 'unable to find federated bundle \\"spiffe://unknown.test\\"'),
        (["-dns", "a..b"], "InvalidArgument", "failed to convert entry: invalid DNS name"),
        (["-hint", "x" * 1025], "InvalidArgument", "hint is too long, max length is 1024 characters"),
    ],
    ids=["id", "selector", "federation", "dns", "hint"],
)
def test_what_the_server_refuses_is_told_with_its_reason(cli, name, more, code, message):
    ran = create(cli, name, *more)
    assert (ran.code, ran.out) == (1, "")
    first, *_, last = ran.err.splitlines()
    assert first.startswith(f"Failed to create the following entry (code: {code}, msg: ")
    assert message in first
    assert f"{last}\n" == FAILED


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ([], "at least one selector is required"),
        (["-selector", "a:b"], "a parent ID is required if the node flag is not set"),
        (["-selector", "a:b", "-parentID", PARENT], "a SPIFFE ID is required"),
        (["-selector", "a:b", "-node", "-federatesWith", "a"], "node entries can not federate"),
        (
            ["-selector", "a:b", "-parentID", PARENT, "-spiffeID", "spiffe://example.org/w", "-x509SVIDTTL", "-1"],
            "a positive x509-SVID TTL is required",
        ),
        (
            ["-selector", "a:b", "-parentID", PARENT, "-spiffeID", "spiffe://example.org/w", "-jwtSVIDTTL", "-1"],
            "a positive JWT-SVID TTL is required",
        ),
        (
            ["-selector", "a:b", "-parentID", PARENT, "-spiffeID", "spiffe://example.org/w", "-jwtSVIDTTL", str(2**31)],
            "invalid value for JWT SVID TTL: overflow converting int(2147483648) to int32",
        ),
        (
            ["-selector", "a", "-parentID", PARENT, "-spiffeID", "spiffe://example.org/w"],
            'selector "a" must be formatted as type:value',
        ),
        (
            ["-selector", "a:b", "-parentID", "foo", "-spiffeID", "spiffe://example.org/w"],
            "'foo' is no SPIFFE ID: scheme is missing or invalid",
        ),
        (["-data", "/no/such/file"], "open /no/such/file: no such file or directory"),
        (["-data", "/"], "read /: is a directory"),
    ],
)
def test_what_is_wrong_without_asking_is_refused(cli, args, error):
    assert cli("entry", "create", *args) == Ran(1, err=f"Error: {error}\n")


# -- create and update from files --------------------------------------------------------------------------


def record(name: str, **more: object) -> dict[str, object]:
    """An entry as a file has it."""
    return {
        "entry_id": name,
        "spiffe_id": f"spiffe://example.org/{name}",
        "parent_id": PARENT,
        "selectors": [{"type": "unix", "value": f"user:{name}"}],
        **more,
    }


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_entries_are_read_from_a_file_or_standard_input(cli, name, source, tmp_path: Path):
    file = tmp_path / "entries.json"
    more = {"x509_svid_ttl": 5, "admin": True, "federates_with": ["spiffe://other.test"], "dns_names": ["a.test"]}
    document = json.dumps({"entries": [record(name), record(f"{name}2", hint="h", unknown=1, **more)]})
    file.write_text(document)
    ran = cli("entry", "create", "-data", file if source == "file" else "-", stdin=document)
    ttls = "X509-SVID TTL           : 5\nJWT-SVID TTL            : default\n"
    rest = "FederatesWith           : other.test\nDNS name                : a.test\n"
    rest += "Admin                   : true\nHint                    : h\n\n"
    assert ran == Ran(0, text(name) + text(f"{name}2", rest=ttls).removesuffix("\n") + rest)


def test_of_several_entries_those_that_fail_do_not_keep_others_from_being_made(cli, name):
    create(cli, name)
    document = json.dumps({"entries": [record(f"{name}2"), record(name)]})
    ran = cli("entry", "create", "-data", "-", stdin=document)
    reason = 'Failed to create the following entry (code: AlreadyExists, msg: "similar entry already exists"):\n'
    assert ran == Ran(1, text(f"{name}2"), reason + text(name) + FAILED)


def test_a_file_without_entries_makes_none(cli):
    assert cli("entry", "create", "-data", "-", stdin='{"entries": []}') == Ran(0)
    assert cli("entry", "create", "-data", "-", stdin="{}") == Ran(0)


# -- update ------------------------------------------------------------------------------------------------


def update(cli: CommandLine, name: str, *more: object) -> Ran:
    """Update an entry to have another selector."""
    spiffe_id = f"spiffe://example.org/{name}"
    return cli(
        *("entry", "update", "-entryID", name, "-parentID", PARENT, "-spiffeID", spiffe_id),
        *("-selector", "a:b", *more),
    )


def test_an_entry_is_replaced(cli, name):
    create(cli, name, "-hint", "gone")
    assert update(cli, name) == Ran(0, text(name, 1, selectors=("a:b",)))


def test_attributes_that_an_update_does_not_name_are_kept(cli, name):
    create(cli, name, "-disableX509SVIDPrefetch")
    ran = update(cli, name, "-jwtSVIDIncludeJTI")
    kept = "DisableX509SvidPrefetch : true\nJwtSvidIncludeJti       : true\n\n"
    assert ran == Ran(0, text(name, 1, selectors=("a:b",)).removesuffix("\n") + kept)


def test_an_update_of_an_entry_that_is_not_there_fails(cli, name):
    ran = update(cli, name)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("Failed to update the following entry (code: NotFound, msg: ")
    assert ran.err.endswith(text(name, selectors=("a:b",)) + "Error: failed to update one or more entries\n")
    assert update(cli, name, "-jwtSVIDIncludeJTI") == Ran(
        1,
        err="Error: failed to fetch existing entry to merge additional attributes: "
        "rpc error: code = NotFound desc = entry not found\n",
    )


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ([], "entry ID is required"),
        (["-entryID", "x"], "at least one selector is required"),
        (["-entryID", "x", "-selector", "a:b"], "a parent ID is required"),
        (["-entryID", "x", "-selector", "a:b", "-parentID", PARENT], "a SPIFFE ID is required"),
    ],
)
def test_an_update_needs_what_an_entry_needs(cli, args, error):
    assert cli("entry", "update", *args) == Ran(1, err=f"Error: {error}\n")


# -- show and count ----------------------------------------------------------------------------------------


def test_entries_are_shown_sorted_and_so_are_their_selectors(cli, name):
    for path in ("b", "a"):
        create(cli, f"{name}-{path}", "-selector", "a:z", "-selector", "a:b", "-hint", name)
    ran = cli("entry", "show", "-hint", name)
    shown = []
    for path in ("a", "b"):
        selectors = ("a:b", "a:z", f"unix:user:{name}-{path}")
        one = text(f"{name}-{path}", selectors=selectors).removesuffix("\n")
        shown.append(f"{one}Hint                    : {name}\n\n")
    assert ran == Ran(0, "Found 2 entries\n" + "".join(shown))
    assert cli("entry", "count", "-hint", name) == Ran(0, "2 registration entries\n")


def test_one_entry_is_no_plural(cli, name):
    create(cli, name)
    spiffe_id = f"spiffe://example.org/{name}"
    assert cli("entry", "show", "-spiffeID", spiffe_id) == Ran(0, "Found 1 entry\n" + text(name))
    assert cli("entry", "show", "-entryID", name) == Ran(0, "Found 1 entry\n" + text(name))
    assert cli("entry", "count", "-spiffeID", spiffe_id) == Ran(0, "1 registration entry\n")
    assert cli("entry", "count", "-spiffeID", spiffe_id, "-output", "json") == Ran(0, '{"count":1}\n')


def test_no_entry_is_nothing_to_show(cli, name):
    assert cli("entry", "show", "-hint", name) == Ran(0, "Found 0 entries\n")
    empty = Ran(0, '{"entries":[],"next_page_token":""}\n')
    assert cli("entry", "show", "-hint", name, "-output", "json") == empty


@pytest.mark.parametrize(
    ("wanted", "mode", "found"),
    [
        (["{}:1"], None, "ab"),
        (["{}:1", "{}:2"], None, "b"),
        (["{}:1", "{}:2"], "superset", "b"),
        (["{}:1", "{}:2"], "subset", "ab"),
        (["{}:1", "{}:9"], "any", "ab"),
        (["{}:1"], "exact", "a"),
    ],
)
def test_entries_are_found_by_selectors(cli, name, wanted, mode, found):
    for path, selectors in {"a": ["1"], "b": ["1", "2"]}.items():
        flags = [part for selector in selectors for part in ("-selector", f"{name}:{selector}")]
        spiffe_id = f"spiffe://example.org/{name}-{path}"
        cli("entry", "create", "-entryID", f"{name}-{path}", "-parentID", PARENT, "-spiffeID", spiffe_id, *flags)
    flags = [part for selector in wanted for part in ("-selector", selector.format(name))]
    how = ["-matchSelectorsOn", mode] if mode else []
    ran = cli("entry", "show", *flags, *how)
    assert [line[-1] for line in ran.out.splitlines() if line.startswith("Entry ID")] == list(found)
    plural = "entry" if len(found) == 1 else "entries"
    assert cli("entry", "count", *flags, *how) == Ran(0, f"{len(found)} registration {plural}\n")


@pytest.mark.parametrize("federated", ["other.test", "spiffe://other.test"])
def test_entries_are_found_by_the_domains_that_they_federate_with(cli, name, federated):
    create(cli, name, "-federatesWith", federated, "-hint", name)
    ran = cli("entry", "show", "-hint", name, "-federatesWith", federated, "-matchFederatesWithOn", "exact")
    assert ran.out.startswith("Found 1 entry\n")


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["-entryID", "x", "-spiffeID", "spiffe://example.org/w"], "the -entryID flag can't be combined with others"),
        (["-entryID", "x"], "error fetching entry ID x: rpc error: code = NotFound desc = entry not found"),
        (["-selector", "a"], 'error parsing selectors: selector "a" must be formatted as type:value'),
        (["-selector", "a:b", "-matchSelectorsOn", "x"], 'match behavior "x" unknown'),
        (["-federatesWith", "a", "-matchFederatesWithOn", "x"], 'match behavior "x" unknown'),
        (
            ["-parentID", "foo"],
            "error parsing parent ID \"foo\": 'foo' is no SPIFFE ID: scheme is missing or invalid",
        ),
        (
            ["-parentID", "spiffe://foreign.test/p"],
            "error fetching entries: rpc error: code = InvalidArgument desc = malformed parent ID filter: "
            '"spiffe://foreign.test/p" is not a member of trust domain "example.org"',
        ),
    ],
)
def test_a_wrong_filter_is_refused(cli, args, error):
    assert cli("entry", "show", *args) == Ran(1, err=f"Error: {error}\n")


def test_more_entries_than_fit_a_page_are_all_shown(cli, name):
    records = [record(f"{name}-{number:04}", hint=name) for number in range(1001)]
    for start in range(0, len(records), 500):
        document = json.dumps({"entries": records[start : start + 500]})
        assert cli("entry", "create", "-data", "-", stdin=document).code == 0
    ran = cli("entry", "show", "-hint", name)
    assert ran.out.startswith("Found 1001 entries\n")
    shown = [line.rpartition(" ")[2] for line in ran.out.splitlines() if line.startswith("Entry ID")]
    assert shown == [one["entry_id"] for one in records]


# -- delete ------------------------------------------------------------------------------------------------


def gone(*names: str) -> str:
    return "".join(f"Deleted entry with ID: {name}\n" for name in names)


def missing(*names: str) -> str:
    lines = (f'Failed to delete entry with ID {name} (code: NotFound, msg: "entry not found")\n' for name in names)
    return "".join(lines) + "Error: failed to delete one or more entries\n"


def test_an_entry_is_deleted_without_an_end_of_the_last_line(cli, name):
    create(cli, name)
    assert cli("entry", "delete", "-entryID", name) == Ran(0, gone(name) + "\n\nDeleted 1 entries successfully")


def test_an_entry_that_is_not_there_cannot_be_deleted(cli, name):
    assert cli("entry", "delete", "-entryID", name) == Ran(1, "\n\nFailed to delete 1 entries", missing(name))


def test_entries_are_deleted_by_a_file(cli, name, tmp_path: Path):
    create(cli, f"{name}a")
    create(cli, f"{name}b")
    file = tmp_path / "ids.json"
    file.write_text(json.dumps({"ids": [f"{name}a", "x", f"{name}b", "y"]}))
    summary = "\n\n\n\nDeleted 2 entries successfully, but failed to delete 2 entries"
    assert cli("entry", "delete", "-file", file) == Ran(1, gone(f"{name}a", f"{name}b") + summary, missing("x", "y"))


def test_json_of_a_deletion_fails_for_nothing(cli, name):
    ran = cli("entry", "delete", "-entryID", name, "-output", "json")
    document = {"results": [{"id": name, "status": {"code": 5, "message": "entry not found"}}]}
    assert (ran.code, json.loads(ran.out), ran.err) == (0, document, "")


@pytest.mark.parametrize(
    ("args", "stdin", "error"),
    [
        ([], "", "an entry ID is required"),
        (["-file", "/no/such/file"], "", "open /no/such/file: no such file or directory"),
        (["-file", "-"], "[]", 'file is not of the form {"ids": ["..."]}'),
        (["-file", "-"], '{"ids": [1]}', 'file is not of the form {"ids": ["..."]}'),
        (["-file", "-"], b"\xff", "- is no UTF-8 text"),
    ],
    ids=["nothing", "no file", "array", "number", "bytes"],
)
def test_a_wrong_request_to_delete_is_refused(cli, args, stdin, error):
    assert cli("entry", "delete", *args, stdin=stdin) == Ran(1, err=f"Error: {error}\n")

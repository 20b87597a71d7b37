"""kill -9 at every named point of an authority's life, with keys in SoftHSM and the journal in SQLite.

After each death a new process starts on what was left.  It goes on where the other was, with the same key; nothing was
signed by a key that the journal does not name; nothing in the token but keys that the journal names.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.softhsm import SoftHsmToken

pytest_plugins = ["tests.support.key_fixtures"]
pytestmark = pytest.mark.softhsm

BIRTH = [
    ("reserve", 1, "reserved"),
    ("generate", 1, "reserved"),
    ("generate", 2, "created"),
    ("certify", 1, "created"),
    ("certify", 2, "prepared"),
    ("publish", 1, "prepared"),
    ("publish", 2, "prepared"),
    ("activate", 1, "active"),
]
"""Where a process dies, and the state in which the journal must have its authority then."""
HOUR = 3600
DAY = 24 * HOUR


class Authorities:
    """Processes one after the other on one token and one database."""

    def __init__(self, token: SoftHsmToken, folder: Path) -> None:
        self.token = token
        self.database = folder / "datastore.sqlite3"
        self.fingerprints: dict[str, str] = {}

    def run(self, die_at: str = "", ahead: int = 0) -> dict:
        """Start a process, let it die there or end, and return the last that it said."""
        told = {
            "plugin_data": self.token.plugin_data("group"),
            "database": str(self.database),
            "die_at": die_at,
            "ahead": ahead,
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.authority_process", json.dumps(told)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "SOFTHSM2_CONF": str(self.token.softhsm2_conf)},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"what"')]
        assert done.returncode == (-signal.SIGKILL if die_at else 0), done.stderr + done.stdout
        self.check(said)
        return said[-1]

    def check(self, said: list[dict]) -> None:
        for one in said:
            if one["what"] == "signed":
                allowed = {"ca-certificate": {"created"}}.get(one["kind"], {"active"})
                assert one["by"] in allowed, one
                continue
            assert set(one["keys"]) <= set(one["records"]), "a key that the journal does not name"
            for key_id, fingerprint in one["keys"].items():
                assert self.fingerprints.setdefault(key_id, fingerprint) == fingerprint
            counted = [record for record in one["records"].values() if record.endswith("/active")]
            assert len(counted) == len(set(counted)), "two authorities of a use sign"


@pytest.fixture
def authorities(own_token, tmp_path):
    return Authorities(own_token, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("use", ["x509", "jwt"])
def test_a_server_that_is_killed_at_each_point_goes_on_with_the_same_key(authorities, use):
    born = set()
    for step, count, state in BIRTH:
        died = authorities.run(f"{use}/{step}/{count}")
        assert died["records"][died["key_id"]] == f"{use}/{state}"
        assert (died["key_id"] in died["keys"]) == ((step, count) != ("reserve", 1))
        born.add(died["key_id"])
    end = authorities.run()
    assert len(born) == 1
    assert sorted(end["records"].values()) == ["jwt/active", "x509/active"]
    assert len(authorities.fingerprints) == 2
    assert end["bundle"] == [1, 1]


@pytest.mark.parametrize(
    ("point", "hours"),
    [
        ("x509/generate/1", 13),
        ("x509/activate/1", 21),
    ],
)
def test_a_rotation_that_is_cut_short_is_finished_by_the_next_process(authorities, point, hours):
    first = authorities.run()
    if hours > 13:
        authorities.run(ahead=13 * HOUR)
    authorities.run(point, ahead=hours * HOUR)
    authorities.run(ahead=hours * HOUR)
    end = authorities.run(ahead=21 * HOUR)
    assert sorted(end["records"].values()) == ["jwt/active", "jwt/old", "x509/active", "x509/old"]
    assert set(first["keys"]) < set(end["keys"])
    assert len(authorities.fingerprints) == 4
    assert end["bundle"] == [2, 2]


@pytest.mark.parametrize("point", ["x509/revoke/1", "x509/forget/1"])
def test_a_key_whose_destruction_is_cut_short_is_gone_after_the_next(authorities, point):
    first = authorities.run()
    authorities.run(ahead=20 * DAY) if "forget" in point else authorities.run(ahead=13 * HOUR)
    ahead = 40 * DAY if "forget" in point else 3 * DAY
    authorities.run(point, ahead=ahead)
    end = authorities.run(ahead=ahead)
    assert not set(first["keys"]) & set(end["keys"])
    assert list(end["records"].values()).count("x509/active") == 1

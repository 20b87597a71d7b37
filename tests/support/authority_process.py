"""A server's authorities in a process of their own, which kills itself where it is told.

Run as ``python -m tests.support.authority_process``, with a JSON object: ``plugin_data`` of KeyManager "pkcs11", the
``database`` file, by how many seconds the clock is ``ahead``, and ``die_at``, "use/step/count", where it sends itself
SIGKILL.  Lines of JSON come out: what there is at the start, what is signed and in which state its authority is then,
and what there is at the end.
"""

import json
import os
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hsm_ca.authority_key import Issuance
from hsm_ca.journal import AuthorityId, AuthorityRecord
from hsm_ca.lease import LeaseKeeper
from hsm_ca.manager import AuthorityManager
from hsm_ca.policy import CaPolicy
from hsm_ca.succession import Step
from keymanagers.base import fingerprint
from keymanagers.registry import open_key_manager
from server.datastore.store import Datastore
from server.holder import has_ended, holder_name
from server.trust import TrustStore
from spiffe_core.ids import TrustDomain
from spiffe_core.jwtsvid import verify_jwt_svid
from spiffe_core.runtime.block import Block
from spiffe_core.runtime.clock import SystemClock
from spiffe_core.x509svid import parse_chain, verify_x509_svid
from tests.support.authorities import jwt_request, svid_request
from tests.support.databases import sqlite_config

TD = TrustDomain("example.org")
GROUP = "group"


class Process:
    """One run."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.now = datetime.now(UTC) + timedelta(seconds=told["ahead"])
        self.die_at: str = told["die_at"]
        self.counts: dict[str, int] = {}
        self.datastore = Datastore.open(sqlite_config(Path(told["database"])), SystemClock())
        self.journal = self.datastore.journal(GROUP)
        self.keys = open_key_manager("pkcs11", Block.parse(told["plugin_data"]), authority_group=GROUP)
        self.trust = TrustStore(TD, self.datastore.bundles)
        self.manager = AuthorityManager(
            policy=CaPolicy(trust_domain=TD),
            keys=self.keys,
            journal=self.journal,
            lease=LeaseKeeper(self.datastore.lease(GROUP), holder_name(), has_ended=has_ended),
            bundles=self.trust,
            observers=[self],
            progress=self.progress,
        )

    def run(self) -> None:
        self.trust.reload()
        say("start", **self.seen())
        self.manager.start()
        self.manager.tick(self.now, time.monotonic())
        svid = self.manager.x509.issue(svid_request(), self.now)
        verify_x509_svid(parse_chain(svid.chain), self.trust.own, self.now)
        token = self.manager.jwt.issue(jwt_request(), self.now).token
        verify_jwt_svid(token, self.trust.bundle_of, ["audience"], self.now)
        say("end", **self.seen())
        self.manager.close()
        self.keys.close()
        self.datastore.close()

    def seen(self) -> dict[str, Any]:
        """Keys, records and bundle, read anew."""
        shown = self.keys.keys()
        return {
            "keys": {key.id: fingerprint(key.public) for key in shown},
            "records": {record.key_id: f"{record.use}/{record.state}" for record in self.journal.records()},
            "ids": {record.key_id: record.authority_id for record in self.journal.records()},
            "bundle": [len(self.trust.own.x509_authorities), len(self.trust.own.jwt_authorities)],
        }

    def progress(self, step: Step, record: AuthorityRecord) -> None:
        point = f"{record.use}/{step}"
        self.counts[point] = self.counts.get(point, 0) + 1
        if f"{point}/{self.counts[point]}" == self.die_at:
            say("dies", key_id=record.key_id, **self.seen())
            os.kill(os.getpid(), signal.SIGKILL)

    def issued(self, authority_id: AuthorityId, issuance: Issuance, artefact: bytes) -> None:
        journalled = {record.authority_id: record.state.value for record in self.journal.records()}
        say("signed", kind=issuance.kind, by=journalled.get(authority_id, "nobody"), size=len(artefact))


def say(what: str, **facts: Any) -> None:
    print(json.dumps({"what": what, **facts}), flush=True)


if __name__ == "__main__":
    Process(json.loads(sys.argv[1])).run()

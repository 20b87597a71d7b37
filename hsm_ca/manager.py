"""The authority manager: brings authorities to life, lets them sign, and ends them, one step at a time.

``tick`` does whatever is due and is called about once a second by one thread; it may block on the key
manager, the database and the upstream.  Between ticks ``x509`` and ``jwt`` hand out the authority that signs.

Of the servers that share a key manager one leads (``hsm_ca.lease``) and takes the steps of
``hsm_ca.succession``; each step is written to the journal before the next begins.  The others read the journal
and sign with the same keys.  An authority reaches the bundle before it may sign; a key is destroyed only when
the journal names it, its grace is over, and every key that must exist has been found in the module.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from hsm_ca.acts import Acts, BundleStore, facts, moved
from hsm_ca.authority_key import Observer
from hsm_ca.journal import AuthorityRecord, Journal, StaleLease, State, Use
from hsm_ca.jwt_authority import JwtIssuer
from hsm_ca.keyring import Keyring
from hsm_ca.lease import LeaseKeeper
from hsm_ca.lifetimes import KEEP_EXPIRED
from hsm_ca.policy import CaPolicy
from hsm_ca.succession import Step, newest, next_step
from hsm_ca.upstream import Upstream
from hsm_ca.x509_authority import X509Issuer
from keymanagers.base import KeyId, KeyManager
from spiffe_core.errors import FailedPrecondition, KeyManagerUnavailable, SpiffeError, Unavailable
from spiffe_core.runtime.clock import from_unix, unix

PRUNE_EVERY: Final = timedelta(hours=6)
"""How often expired authorities are taken out of the bundle (SPIRE's)."""
RETRY_AFTER: Final = 5.0
"""Seconds after which a step that failed is tried again."""

log: Final = structlog.get_logger()

Progress = Callable[[Step, AuthorityRecord], None]
"""Told of each step twice: when the act is done, with the record as it was, and when the journal has the new one."""


class AuthorityManager:
    """The authorities of one server or authority group."""

    def __init__(
        self,
        *,
        policy: CaPolicy,
        keys: KeyManager,
        journal: Journal,
        lease: LeaseKeeper,
        bundles: BundleStore,
        upstream: Upstream | None = None,
        observers: Sequence[Observer] = (),
        verify_signatures: bool = True,
        progress: Progress = lambda _step, _record: None,
    ) -> None:
        self._policy = policy
        self._keyring = Keyring(keys, verify=verify_signatures, observers=observers)
        self._acts = Acts(policy=policy, keyring=self._keyring, bundles=bundles, upstream=upstream)
        self._journal = journal
        self._lease = lease
        self._bundles = bundles
        self._progress = progress
        self._records: Mapping[KeyId, AuthorityRecord] = {}
        self._x509: X509Issuer | None = None
        self._jwt: JwtIssuer | None = None
        self._pruned_at: datetime | None = None
        self._lost: frozenset[KeyId] = frozenset()
        self._retry_at: dict[Use, float] = {}

    @property
    def x509(self) -> X509Issuer:
        """The authority that signs X509-SVIDs now.

        Raises:
            Unavailable: if there is none yet.
        """
        if self._x509 is None:
            raise Unavailable("X509 CA is not available for signing")
        return self._x509

    @property
    def jwt(self) -> JwtIssuer:
        """The authority that signs JWT-SVIDs now.

        Raises:
            Unavailable: if there is none yet.
        """
        if self._jwt is None:
            raise Unavailable("JWT key is not available for signing")
        return self._jwt

    @property
    def records(self) -> tuple[AuthorityRecord, ...]:
        """The journal as last read."""
        return tuple(self._records.values())

    def start(self) -> None:
        """Read journal and module for the first time, and make sure that they agree.

        Raises:
            FailedPrecondition: if a key that must exist is not in the module, saying what to do.
            KeyManagerUnavailable: if the module does not answer.
        """
        self._read_journal()
        if orphans := sorted(self._keyring.look() - self._records.keys()):
            log.warning("Key manager shows keys that the authority journal does not name", key_ids=orphans)
        missing = self._keyring.missing(self.records)
        if self._policy.go_on_without_lost_keys:
            self._lost = frozenset(record.key_id for record in missing)
        elif missing:
            names = ", ".join(f'"{record.key_id}" ({record.use} {record.state})' for record in missing)
            raise FailedPrecondition(
                f"the key manager does not show {names}, which the authority journal says it holds: "
                "make sure that it is the right token or key file and that it is complete; if another server has them "
                "in another token, give this one an authority_group of its own; if they are lost for good, start once "
                "with -goOnWithoutLostKeys to prepare new authorities in their place"
            )

    def tick(self, now: datetime, monotonic: float) -> None:
        """Do what is due: follow the journal and, if this server leads, move authorities.

        Raises:
            SpiffeError: the first of what failed, mostly Unavailable, since key manager, database or upstream do
                not answer; a later tick goes on from there.
        """
        failures: list[SpiffeError] = []
        epoch = None
        try:
            epoch = self._lease.keep(monotonic)
        except Unavailable as exc:  # a database that cannot be written to may still be read
            failures.append(exc)
        self._read_journal()
        if epoch is not None:
            failures += self._lead(epoch, now, monotonic)
        failures += self._choose_issuers()
        if failures:
            raise failures[0]

    def close(self) -> None:
        """Give up leadership, so that another server need not wait."""
        self._lease.release()

    def _lead(self, epoch: int, now: datetime, monotonic: float) -> list[SpiffeError]:
        """Take every step that is due; what fails for one use does not hold up the other."""
        failures: list[SpiffeError] = []
        try:
            self._give_up_lost_keys(epoch, now)
            for use in self._uses():
                if monotonic < self._retry_at.get(use, monotonic):
                    continue
                try:
                    while due := next_step(self._of(use), now):
                        self._take(epoch, use, due, now)
                except StaleLease:
                    raise
                except SpiffeError as exc:
                    failures.append(exc)
                    self._retry_at[use] = monotonic + RETRY_AFTER
            self._prune(now)
        except StaleLease as exc:
            log.warning("Authority group is led by another server now", error=str(exc))
            self._lease.lose()
            self._read_journal()
        return failures

    def _give_up_lost_keys(self, epoch: int, now: datetime) -> None:
        """End the authorities whose keys were missing at start and still are, as the operator ordered."""
        if not self._lost:
            return
        self._keyring.look()
        ending = {State.CREATED: Step.ABANDON, State.PREPARED: Step.DISCARD, State.ACTIVE: Step.SUPERSEDE}
        lost = [record for record in self._keyring.missing(self.records) if record.key_id in self._lost]
        if lost:
            self._write(epoch, now, *(moved(record, ending[record.state]) for record in lost))
            log.warning("Authorities without their keys were given up", key_ids=[record.key_id for record in lost])
        self._lost = frozenset()

    def _take(self, epoch: int, use: Use, due: tuple[Step, AuthorityRecord | None], now: datetime) -> None:
        """Take one step and write it down."""
        step, before = due
        if before is None:
            after = self._acts.reserve(use, now)
            self._write(epoch, now, after)
        elif step is Step.ACTIVATE:
            after = self._activate(epoch, before, now)
        else:
            after = self._acts.do(step, before, self.records, now)
            self._progress(step, before)
            if step is Step.FORGET:
                self._journal.forget(epoch, before.key_id)
                self._read_journal()
            else:
                self._write(epoch, now, after)
        self._progress(step, after)
        if step is Step.GENERATE and after.state is not State.CREATED:
            raise KeyManagerUnavailable(f'key id "{after.key_id}" was given up; a new key gets another')

    def _activate(self, epoch: int, record: AuthorityRecord, now: datetime) -> AuthorityRecord:
        """Let the authority sign and the one before it end, in one write."""
        self._keyring.key_of(record)  # one that cannot be found may not take over
        active = newest(self._of(record.use), State.ACTIVE)
        superseded = [moved(active, Step.SUPERSEDE)] if active else []
        record = moved(record, Step.ACTIVATE)
        self._write(epoch, now, record, *superseded)
        log.info("X509 CA activated" if record.use is Use.X509 else "JWT key activated", **facts(record))
        if superseded and record.use is Use.X509:
            log.debug("Successfully rotated X.509 CA", trust_domain_id=str(self._policy.trust_domain.id))
        return record

    def _choose_issuers(self) -> list[SpiffeError]:
        """Sign with what the journal says is active; an authority that cannot be had leaves the one before."""
        failures: list[SpiffeError] = []
        for use, present in ((Use.X509, self._x509), (Use.JWT, self._jwt)):
            active = newest(self._of(use), State.ACTIVE)
            if active and (present is None or present.authority_id != active.authority_id):
                try:
                    self._sign_with(active)
                except Unavailable as exc:
                    failures.append(exc)
        return failures

    def _sign_with(self, record: AuthorityRecord) -> None:
        key = self._keyring.key_of(record)
        self._bundles.catch_up()  # another server may have published it: what it signs must verify here too
        if record.use is Use.X509:
            self._x509 = X509Issuer(key, record.chain)
        else:
            self._jwt = JwtIssuer(key, from_unix(record.not_after), self._policy.jwt_issuer)

    def _prune(self, now: datetime) -> None:
        if self._pruned_at is None or not self._pruned_at <= now < self._pruned_at + PRUNE_EVERY:
            if self._bundles.prune(unix(now - KEEP_EXPIRED)):
                log.info("Expired authorities were removed from the bundle")
            self._pruned_at = now

    def _uses(self) -> Sequence[Use]:
        return (Use.X509,) if self._policy.jwt_svids_disabled else (Use.X509, Use.JWT)

    def _of(self, use: Use) -> list[AuthorityRecord]:
        return [record for record in self._records.values() if record.use is use]

    def _read_journal(self) -> None:
        self._records = {record.key_id: record for record in self._journal.records()}

    def _write(self, epoch: int, now: datetime, *records: AuthorityRecord) -> None:
        records = tuple(replace(record, changed_at=unix(now)) for record in records)
        self._journal.write(epoch, *records)
        self._records = {**self._records, **{record.key_id: record for record in records}}

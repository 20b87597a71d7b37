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
from typing import Final, Protocol
from uuid import uuid4

import structlog
from cryptography.hazmat.primitives.serialization import Encoding

from hsm_ca.authority_key import Observer
from hsm_ca.journal import NEXT, AuthorityRecord, Journal, State, Use
from hsm_ca.jwt_authority import JwtIssuer, new_jwt_authority_id
from hsm_ca.keyring import Keyring, encoded
from hsm_ca.lease import LeaseKeeper
from hsm_ca.lifetimes import KEEP_EXPIRED
from hsm_ca.policy import CaPolicy
from hsm_ca.succession import Step, newest, next_step
from hsm_ca.upstream import Upstream, check_minted
from hsm_ca.x509_authority import X509Issuer, certificate_request, x509_authority_id
from keymanagers.base import KeyId, KeyManager
from spiffe_core.bundle import Bundle, JwtAuthority, X509Authority
from spiffe_core.errors import FailedPrecondition, Unavailable
from spiffe_core.runtime.clock import from_unix, unix

PRUNE_EVERY: Final = timedelta(hours=6)
"""How often expired authorities are taken out of the bundle (SPIRE's)."""
RETRY_AFTER: Final = 5.0
"""Seconds after which a step that failed is tried again."""

log: Final = structlog.get_logger()


class BundleStore(Protocol):
    """The bundle of our own trust domain, shared by all its servers."""

    def publish(self, x509_authorities: Sequence[X509Authority], jwt_authorities: Sequence[JwtAuthority]) -> Bundle:
        """Add what is new, durably, and return the bundle as it stands then."""

    def prune(self, before: int) -> bool:
        """Take out what expired before that Unix time; whether anything was."""


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
        self._journal = journal
        self._lease = lease
        self._bundles = bundles
        self._upstream = upstream
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
                "make sure that it is the right token or key file and that it is complete; if the keys are lost for "
                "good, start once with -goOnWithoutLostKeys to prepare new authorities in their place"
            )

    def tick(self, now: datetime, monotonic: float) -> None:
        """Do what is due: follow the journal and, if this server leads, move authorities.

        Raises:
            Unavailable: if key manager, database or upstream do not answer; a later tick goes on from there.
        """
        epoch = self._lease.keep(monotonic)
        self._read_journal()
        failures = self._lead(epoch, now, monotonic) if epoch is not None else []
        self._choose_issuers()
        if failures:
            raise failures[0]

    def close(self) -> None:
        """Give up leadership, so that another server need not wait."""
        self._lease.release()

    def _lead(self, epoch: int, now: datetime, monotonic: float) -> list[Unavailable]:
        """Take every step that is due; what fails for one use does not hold up the other."""
        self._give_up_lost_keys(epoch, now)
        failures = []
        for use in (Use.X509,) if self._policy.jwt_svids_disabled else (Use.X509, Use.JWT):
            if monotonic < self._retry_at.get(use, monotonic):
                continue
            try:
                while step := next_step(self._of(use), now):
                    self._take(epoch, use, step, now)
            except Unavailable as exc:
                failures.append(exc)
                self._retry_at[use] = monotonic + RETRY_AFTER
        self._prune(now)
        return failures

    def _give_up_lost_keys(self, epoch: int, now: datetime) -> None:
        """End the authorities whose keys were missing at start, as the operator ordered; later ones never."""
        ending = {State.CREATED: "abandon", State.PREPARED: Step.DISCARD, State.ACTIVE: Step.SUPERSEDE}
        lost = [record for record in self.records if record.key_id in self._lost and record.state in ending]
        if lost:
            self._write(epoch, now, *(_moved(record, ending[record.state]) for record in lost))
            log.warning("Authorities without their keys were given up", key_ids=[record.key_id for record in lost])
        self._lost = frozenset()

    def _take(self, epoch: int, use: Use, due: tuple[Step, AuthorityRecord | None], now: datetime) -> None:
        """Take one step and write it down."""
        step, before = due
        if before is None:
            after = self._reserve(use, now)
            self._write(epoch, now, after)
        elif step is Step.FORGET:
            after = before
            self._journal.forget(epoch, before.key_id)
            self._read_journal()
        elif step is Step.ACTIVATE:
            after = self._activate(epoch, before, now)
        else:
            after = self._act(step, before, now)
            self._progress(step, before)
            self._write(epoch, now, after)
        self._progress(step, after)

    def _act(self, step: Step, record: AuthorityRecord, now: datetime) -> AuthorityRecord:
        """What a step does in the world, and the record that says so."""
        if step is Step.GENERATE:
            return self._generate(record)
        if step is Step.CERTIFY:
            return self._certify(record, now)
        if step is Step.PUBLISH:
            return self._publish(record)
        if step is Step.REVOKE:
            self._keyring.destroy(record, self.records)
            log.info("Key destroyed", key_id=record.key_id, local_authority_id=record.authority_id)
        return _moved(record, step)

    def _reserve(self, use: Use, now: datetime) -> AuthorityRecord:
        key_type = self._policy.ca_key_type
        if use is Use.JWT:
            key_type = self._policy.jwt_key_type or key_type
        key_id = KeyId(f"{use}-{now:%Y%m%dT%H%M%S}-{uuid4().hex[:12]}")
        return AuthorityRecord(key_id=key_id, use=use, key_type=key_type, state=State.RESERVED, reserved_at=unix(now))

    def _generate(self, record: AuthorityRecord) -> AuthorityRecord:
        key = self._keyring.make(record, self.records)
        authority_id = new_jwt_authority_id() if record.use is Use.JWT else x509_authority_id(key.public)
        return replace(_moved(record, Step.GENERATE), public_key=encoded(key.public), authority_id=authority_id)

    def _certify(self, record: AuthorityRecord, now: datetime) -> AuthorityRecord:
        """Give the authority its lifetime: a CA certificate, or for a JWT authority the dates alone."""
        ttl = self._policy.ca_ttl
        record = replace(_moved(record, Step.CERTIFY), issued_at=unix(now))
        if record.use is Use.JWT:
            return replace(record, not_after=unix(now + ttl))
        key = self._keyring.key_of(record)
        domain, subject = self._policy.trust_domain, self._policy.ca_subject
        if self._upstream is None:
            issuer = X509Issuer.self_signed(key, domain, subject, ttl, now)
            certificate = issuer.certificate.public_bytes(Encoding.DER)
            return replace(record, chain=(certificate,), roots=(certificate,), not_after=unix(issuer.not_after))
        minted = self._upstream.mint_x509_ca(certificate_request(key, domain, subject), ttl, now)
        issuer = check_minted(minted, key, domain, now)
        return replace(record, chain=minted.chain, roots=minted.roots, not_after=unix(issuer.not_after))

    def _publish(self, record: AuthorityRecord) -> AuthorityRecord:
        if record.use is Use.X509:
            self._bundles.publish([X509Authority(der) for der in record.roots], [])
            log.info("X509 CA prepared", **_facts(record))
        else:
            self._bundles.publish([], [JwtAuthority(record.authority_id, record.public_key, record.not_after)])
            log.info("JWT key prepared", **_facts(record))
        return replace(record, published=True)

    def _activate(self, epoch: int, record: AuthorityRecord, now: datetime) -> AuthorityRecord:
        """Let the authority sign and the one before it end, in one write."""
        self._keyring.key_of(record)  # one that cannot be found may not take over
        active = newest(self._of(record.use), State.ACTIVE)
        superseded = [_moved(active, Step.SUPERSEDE)] if active else []
        record = _moved(record, Step.ACTIVATE)
        self._write(epoch, now, record, *superseded)
        log.info("X509 CA activated" if record.use is Use.X509 else "JWT key activated", **_facts(record))
        if superseded and record.use is Use.X509:
            log.debug("Successfully rotated X.509 CA", trust_domain_id=str(self._policy.trust_domain.id))
        return record

    def _choose_issuers(self) -> None:
        """Sign with what the journal says is active."""
        active = newest(self._of(Use.X509), State.ACTIVE)
        if active and (self._x509 is None or self._x509.authority_id != active.authority_id):
            self._x509 = X509Issuer(self._keyring.key_of(active), active.chain)
        active = newest(self._of(Use.JWT), State.ACTIVE)
        if active and (self._jwt is None or self._jwt.authority_id != active.authority_id):
            key = self._keyring.key_of(active)
            self._jwt = JwtIssuer(key, from_unix(active.not_after), self._policy.jwt_issuer)

    def _prune(self, now: datetime) -> None:
        if self._pruned_at is None or now >= self._pruned_at + PRUNE_EVERY:
            if self._bundles.prune(unix(now - KEEP_EXPIRED)):
                log.info("Expired authorities were removed from the bundle")
            self._pruned_at = now

    def _of(self, use: Use) -> list[AuthorityRecord]:
        return [record for record in self._records.values() if record.use is use]

    def _read_journal(self) -> None:
        self._records = {record.key_id: record for record in self._journal.records()}

    def _write(self, epoch: int, now: datetime, *records: AuthorityRecord) -> None:
        records = tuple(replace(record, changed_at=unix(now)) for record in records)
        self._journal.write(epoch, *records)
        self._records = {**self._records, **{record.key_id: record for record in records}}


def _moved(record: AuthorityRecord, step: str) -> AuthorityRecord:
    """The record after a step that the state table allows."""
    state = NEXT.get((record.state, step))
    if state is None:
        raise FailedPrecondition(f'authority of key "{record.key_id}" is {record.state}: it cannot {step}')
    return replace(record, state=state)


def _facts(record: AuthorityRecord) -> dict[str, str]:
    return {
        "local_authority_id": record.authority_id,
        "key_id": record.key_id,
        "issued_at": from_unix(record.issued_at).isoformat(),
        "expiration": from_unix(record.not_after).isoformat(),
    }

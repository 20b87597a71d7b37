"""What each step of an authority's life does outside the journal: keys, certificates, the bundle.

An act changes nothing that cannot be found or done again: if the journal write after it is lost, or refused since
another server leads, the next leader finds the key by its name, certifies it once more, or publishes what is
there already.  So the journal alone says what is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, Protocol
from uuid import uuid4

import structlog
from cryptography.hazmat.primitives.serialization import Encoding

from hsm_ca.journal import NEXT, AuthorityId, AuthorityRecord, State, Use
from hsm_ca.jwt_authority import new_jwt_authority_id
from hsm_ca.keyring import Keyring, encoded
from hsm_ca.policy import CaPolicy
from hsm_ca.succession import Step, is_due
from hsm_ca.upstream import MintedCa, Upstream, check_minted
from hsm_ca.x509_authority import X509Issuer, certificate_request, x509_authority_id
from keymanagers.base import KeyId
from spiffe_core.bundle import Bundle, JwtAuthority, X509Authority
from spiffe_core.errors import AlreadyExists, FailedPrecondition, UpstreamUnavailable
from spiffe_core.runtime.clock import from_unix, unix
from spiffe_core.x509svid import subject_key_id

log: Final = structlog.get_logger()

Records = Sequence[AuthorityRecord]


class BundleStore(Protocol):
    """The bundle of our own trust domain, shared by all its servers."""

    def publish(self, x509_authorities: Sequence[X509Authority], jwt_authorities: Sequence[JwtAuthority]) -> Bundle:
        """Add what is new, durably, and return the bundle as it stands then."""

    def catch_up(self) -> None:
        """Know from now on what other servers have published until now."""

    def prune(self, before: int) -> bool:
        """Take out what expired before that Unix time; whether anything was."""


class Acts:
    """The acts of one server's authority manager."""

    def __init__(self, *, policy: CaPolicy, keyring: Keyring, bundles: BundleStore, upstream: Upstream | None) -> None:
        self._policy = policy
        self._keyring = keyring
        self._bundles = bundles
        self._upstream = upstream
        self._table: Mapping[Step, Callable[[AuthorityRecord, Records, datetime], AuthorityRecord]] = {
            Step.GENERATE: self._generate,
            Step.CERTIFY: self._certify,
            Step.PUBLISH: self._publish,
            Step.REVOKE: self._destroy,
            Step.FORGET: self._clear,
        }

    def do(self, step: Step, record: AuthorityRecord, records: Records, now: datetime) -> AuthorityRecord:
        """Do what the step means, and return the record that says so; ``records`` are all there are.

        Raises:
            Unavailable: if key manager, database or upstream do not answer; nothing is lost by doing it again.
        """
        act = self._table.get(step)
        return act(record, records, now) if act else moved(record, step)

    def reserve(self, use: Use, now: datetime) -> AuthorityRecord:
        """Choose the id of a key that is to be made; nothing has happened yet."""
        key_type = self._policy.ca_key_type
        if use is Use.JWT:
            key_type = self._policy.jwt_key_type or key_type
        key_id = KeyId(f"{use}-{now:%Y%m%dT%H%M%S}-{uuid4().hex[:12]}")
        return AuthorityRecord(key_id=key_id, use=use, key_type=key_type, state=State.RESERVED, reserved_at=unix(now))

    def _generate(self, record: AuthorityRecord, records: Records, _now: datetime) -> AuthorityRecord:
        try:
            key = self._keyring.make(record, records)
        except AlreadyExists as exc:
            log.warning("Key id is taken by what is no usable key", key_id=record.key_id, error=str(exc))
            return moved(record, Step.ABANDON)
        authority_id = new_jwt_authority_id() if record.use is Use.JWT else x509_authority_id(key.public)
        return replace(moved(record, Step.GENERATE), public_key=encoded(key.public), authority_id=authority_id)

    def _certify(self, record: AuthorityRecord, _records: Records, now: datetime) -> AuthorityRecord:
        """Give the authority its lifetime: a CA certificate, or for a JWT authority the dates alone."""
        ttl = self._policy.ca_ttl
        record = replace(moved(record, Step.CERTIFY), issued_at=unix(now))
        if record.use is Use.JWT:
            return self._worth_having(replace(record, not_after=unix(now + ttl)), now)
        key = self._keyring.key_of(record)
        domain, subject = self._policy.trust_domain, self._policy.ca_subject
        if self._upstream is None:
            issuer = X509Issuer.self_signed(key, domain, subject, ttl, now)
            certificate = issuer.certificate.public_bytes(Encoding.DER)
            minted = MintedCa((certificate,), (certificate,))
        else:
            minted = self._upstream.mint_x509_ca(certificate_request(key, domain, subject), ttl, now)
            issuer = check_minted(minted, key, domain, now)
        record = replace(
            record,
            # An upstream may identify the key in another way than we do.
            authority_id=AuthorityId(subject_key_id(issuer.certificate).hex()),
            chain=minted.chain,
            roots=minted.roots,
            not_after=unix(issuer.not_after),
        )
        return self._worth_having(record, now)

    def _worth_having(self, record: AuthorityRecord, now: datetime) -> AuthorityRecord:
        """The record, if its authority may sign: one that may not would be followed by the next, and so on.

        Raises:
            UpstreamUnavailable: if the upstream's own end is too near; the key waits for a later one.
            FailedPrecondition: if the configured lifetime is too short for any authority.
        """
        if not is_due(record, now):
            return record
        if self._upstream is not None and record.use is Use.X509:
            end = from_unix(record.not_after)
            raise UpstreamUnavailable(
                f"X509 CA minted by upstream authority ends at {end:%FT%TZ}, too soon to sign anything: "
                "renew the upstream's own certificate"
            )
        raise FailedPrecondition("server.ca_ttl is too short: an authority would have to be replaced as soon as made")

    def _publish(self, record: AuthorityRecord, _records: Records, _now: datetime) -> AuthorityRecord:
        if record.use is Use.X509:
            self._bundles.publish([X509Authority(der) for der in record.roots], [])
            log.info("X509 CA prepared", **facts(record))
        else:
            self._bundles.publish([], [JwtAuthority(record.authority_id, record.public_key, record.not_after)])
            log.info("JWT key prepared", **facts(record))
        return replace(record, published=True)

    def _destroy(self, record: AuthorityRecord, records: Records, _now: datetime) -> AuthorityRecord:
        self._keyring.destroy(record, records)
        log.info("Key destroyed", key_id=record.key_id, local_authority_id=record.authority_id)
        return moved(record, Step.REVOKE)

    def _clear(self, record: AuthorityRecord, records: Records, _now: datetime) -> AuthorityRecord:
        """Leave nothing of a key that the journal will name no more."""
        self._keyring.destroy(record, records)
        return record


def moved(record: AuthorityRecord, step: str) -> AuthorityRecord:
    """The record after a step that the state table allows.

    Raises:
        FailedPrecondition: if it does not.
    """
    state = NEXT.get((record.state, step))
    if state is None:
        raise FailedPrecondition(f'authority of key "{record.key_id}" is {record.state}: it cannot {step}')
    return replace(record, state=state)


def facts(record: AuthorityRecord) -> dict[str, str]:
    """What log lines say of an authority."""
    return {
        "local_authority_id": record.authority_id,
        "key_id": record.key_id,
        "issued_at": from_unix(record.issued_at).isoformat(),
        "expiration": from_unix(record.not_after).isoformat(),
    }

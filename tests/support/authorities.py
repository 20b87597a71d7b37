"""An authority group on a test bench: its journal, lease, bundle and keys in memory, and servers that share them.

Journal and lease keep the promises of ``hsm_ca.journal``, the epoch's fence included, and each part can be made to
fail: the database, the key manager, single keys, a server at a named step.  ``check`` holds the group against what is
promised of it; it is called after every tick.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.utils import Buffer

from hsm_ca.authority_key import AuthorityKey, Kind
from hsm_ca.journal import AuthorityId, AuthorityRecord, LeaseState, StaleLease, State, Use
from hsm_ca.jwt_authority import JwtSvidRequest
from hsm_ca.lease import LeaseKeeper
from hsm_ca.lifetimes import KEEP_EXPIRED
from hsm_ca.manager import AuthorityManager, Progress
from hsm_ca.policy import CaPolicy
from hsm_ca.upstream import Upstream
from hsm_ca.x509_authority import SvidRequest
from keymanagers.base import Key, KeyId, KeyType, check_key_id
from keymanagers.sealed import SealedEcKey
from spiffe_core.bundle import Bundle, JwtAuthority, X509Authority
from spiffe_core.errors import AlreadyExists, DatastoreUnavailable, KeyManagerUnavailable, KeyNotFound
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.jwtsvid import verify_jwt_svid
from spiffe_core.runtime.clock import from_unix, unix
from spiffe_core.x509svid import parse_chain, verify_x509_svid
from tests.support.clock import FakeClock

TD: Final = TrustDomain("example.org")
WORKLOAD: Final = SpiffeId(TD, "/workload")
HOUR: Final = timedelta(hours=1)
LEAF_KEY: Final = ec.generate_private_key(ec.SECP256R1()).public_key()
"""What SVIDs of the bench are for."""


class Killed(BaseException):
    """A server was killed at this moment: nothing of it runs any more."""


class DeviceKey(SealedEcKey):
    """A P-256 key of ``BlinkingKeys``; it signs while its device answers and still has it."""

    def __init__(self, key_id: KeyId, home: "BlinkingKeys") -> None:
        self._plain = ec.generate_private_key(ec.SECP256R1())
        self._home = home
        super().__init__(key_id, self._plain.public_key())

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        self._home.check_there()
        if self._home.made.get(self.key_id) is not self or self.key_id in self._home.hidden:
            raise KeyManagerUnavailable(f'key "{self.key_id}" is not in the device')
        return self._plain.sign(data, signature_algorithm)


class BlinkingKeys:
    """A key manager whose device can go away, hide keys, or hold half a key."""

    def __init__(self) -> None:
        self.made: dict[KeyId, DeviceKey] = {}
        self.away = False
        self.hidden: set[KeyId] = set()
        """Keys that the device does not show for now."""
        self.halves: set[KeyId] = set()
        """Ids under which something is that is no whole key."""
        self.retired: list[KeyId] = []

    def check_there(self) -> None:
        if self.away:
            raise KeyManagerUnavailable("the device is away")

    def generate(self, key_id: KeyId, key_type: KeyType) -> Key:
        self.check_there()
        if key_id in self.made or key_id in self.halves:
            raise AlreadyExists(f'key "{key_id}" exists already; it was not overwritten')
        self.made[check_key_id(key_id)] = DeviceKey(key_id, self)
        return self._key(key_id, key_type)

    def keys(self) -> Sequence[Key]:
        self.check_there()
        return [self._key(key_id, KeyType.EC_P256) for key_id in sorted(self.made.keys() - self.hidden)]

    def retire(self, key_id: KeyId) -> None:
        self.check_there()
        if key_id in self.halves:
            self.halves.remove(key_id)
        elif self.made.pop(key_id, None) is None:
            raise KeyNotFound(f'there is no key "{key_id}"')
        self.retired.append(key_id)

    def close(self) -> None:
        """Nothing to let go of."""

    def _key(self, key_id: KeyId, key_type: KeyType) -> Key:
        return Key(key_id, key_type, self.made[key_id])


class MemoryTable:
    """Journal and lease of one group in one place, as the datastore has them."""

    def __init__(self) -> None:
        self.rows: dict[KeyId, AuthorityRecord] = {}
        self.history: list[AuthorityRecord] = []
        """Every record as it was ever written."""
        self.state: LeaseState | None = None
        self.away = False
        self.read_only = False

    def records(self) -> Sequence[AuthorityRecord]:
        self.check_there()
        return sorted(self.rows.values(), key=lambda record: (record.reserved_at, record.key_id))

    def write(self, epoch: int, *records: AuthorityRecord) -> None:
        self._fence(epoch)
        self.rows |= {record.key_id: record for record in records}
        self.history += records

    def forget(self, epoch: int, key_id: KeyId) -> None:
        self._fence(epoch)
        self.rows.pop(key_id, None)

    def lease(self) -> LeaseState | None:
        self.check_there()
        return self.state

    def take(self, holder: str, seen: LeaseState | None) -> LeaseState | None:
        self.check_writable()
        if self.state != seen:
            return None
        self.state = LeaseState(holder, seen.epoch + 1 if seen else 1, 0)
        return self.state

    def beat(self, held: LeaseState) -> LeaseState | None:
        self.check_writable()
        if self.state is None or (self.state.holder, self.state.epoch) != (held.holder, held.epoch):
            return None
        self.state = replace(self.state, beat=self.state.beat + 1)
        return self.state

    def release(self, held: LeaseState) -> None:
        self.check_there()
        if self.state is not None and (self.state.holder, self.state.epoch) == (held.holder, held.epoch):
            self.state = replace(self.state, holder="")

    def check_there(self) -> None:
        if self.away:
            raise DatastoreUnavailable("the database is away")

    def check_writable(self) -> None:
        self.check_there()
        if self.read_only:
            raise DatastoreUnavailable("the database is read-only")

    def _fence(self, epoch: int) -> None:
        self.check_writable()
        if self.state is None or self.state.epoch != epoch:
            raise StaleLease(f"the lease is not of epoch {epoch}")


class MemoryBundle:
    """The bundle of the trust domain."""

    def __init__(self, table: MemoryTable) -> None:
        self.bundle = Bundle(TD)
        self.unreadable = False
        self._table = table

    def publish(self, x509_authorities: Sequence[X509Authority], jwt_authorities: Sequence[JwtAuthority]) -> Bundle:
        self._table.check_there()
        self.bundle = self.bundle.with_authorities(x509_authorities, jwt_authorities)
        return self.bundle

    def catch_up(self) -> None:
        self._table.check_there()
        if self.unreadable:
            raise DatastoreUnavailable("the bundle cannot be read")

    def prune(self, before: int) -> bool:
        self._table.check_there()
        old, self.bundle = self.bundle, self.bundle.without_expired(before)
        return old is not self.bundle


@dataclass
class Group:
    """Servers that sign with the same keys, and the clock by which they live."""

    policy: CaPolicy = field(default_factory=lambda: CaPolicy(trust_domain=TD))
    upstream: Upstream | None = None
    clock: FakeClock = field(default_factory=FakeClock)
    keys: BlinkingKeys = field(default_factory=BlinkingKeys)
    table: MemoryTable = field(default_factory=MemoryTable)
    used_until: dict[str, int] = field(default_factory=dict)
    """When the last SVID of each authority expires, by its ID."""
    ended: set[str] = field(default_factory=set)
    """Names of servers of which everybody knows that they run no more."""
    _retired: int = 0

    def __post_init__(self) -> None:
        self.bundles = MemoryBundle(self.table)

    @property
    def now(self) -> datetime:
        return self.clock.now()

    @property
    def bundle(self) -> Bundle:
        return self.bundles.bundle

    def server(
        self, name: str = "one", *, progress: Progress = lambda _step, _record: None, **changes: bool
    ) -> AuthorityManager:
        """A server of the group, not started yet."""
        return AuthorityManager(
            policy=replace(self.policy, **changes),  # type: ignore[arg-type]
            keys=self.keys,
            journal=self.table,
            lease=LeaseKeeper(self.table, name, has_ended=self.ended.__contains__),
            bundles=self.bundles,
            upstream=self.upstream,
            progress=progress,
        )

    def tick(self, server: AuthorityManager, seconds: float = 0.0) -> None:
        """Let that time pass and the server do what is due."""
        self.clock.advance(seconds)
        server.tick(self.now, self.clock.monotonic())

    def started(self, name: str = "one") -> AuthorityManager:
        """A server that leads, with its first authorities."""
        server = self.server(name)
        server.start()
        self.tick(server)
        return server

    def of(self, use: Use, state: State | None = None) -> list[AuthorityRecord]:
        """The journal's records of a use, in a state if one is given."""
        return [row for row in self.table.rows.values() if row.use is use and state in {None, row.state}]

    def active(self, use: Use = Use.X509) -> AuthorityRecord:
        """The one authority of a use that signs."""
        (record,) = self.of(use, State.ACTIVE)
        return record

    def sign(self, server: AuthorityManager, ttl: timedelta = HOUR) -> None:
        """Sign an X509-SVID and a JWT-SVID, and verify both with the bundle as it is now."""
        now = self.now
        svid = server.x509.issue(svid_request(ttl=ttl), now)
        assert svid.not_after <= server.x509.not_after
        assert verify_x509_svid(parse_chain(svid.chain), self.bundle, now).id == WORKLOAD
        self._used(server.x509.authority_id, unix(svid.not_after))
        if not self.policy.jwt_svids_disabled:
            token = server.jwt.issue(JwtSvidRequest(spiffe_id=WORKLOAD, audience=("a",), ttl=ttl), now)
            assert token.expires_at <= server.jwt.not_after
            assert verify_jwt_svid(token.token, {TD: self.bundle}.get, ("a",), now).id == WORKLOAD
            self._used(server.jwt.authority_id, unix(token.expires_at))

    def check(self) -> None:
        """Hold the group against what is promised of it.

        One authority of a use signs at most; an authority that has SVIDs in the field is in the bundle; the bundle and
        the journal stay small; no key was destroyed that may still be needed, nor made that the journal does not name.
        """
        for use in Use:
            assert len(self.of(use, State.ACTIVE)) <= 1
        now = unix(self.now)
        self.used_until = {name: until for name, until in self.used_until.items() if until > now}
        assert not [name for name in self.used_until if not self._vouched(name)]
        assert self.keys.made.keys() <= self.table.rows.keys()
        for key_id in self.keys.retired[self._retired :]:
            last = next(record for record in reversed(self.table.history) if record.key_id == key_id)
            assert from_unix(last.not_after) + KEEP_EXPIRED < self.now
        self._retired = len(self.keys.retired)

    def _vouched(self, authority_id: str) -> bool:
        """Whether the bundle vouches for the SVIDs of one of our authorities."""
        if self.bundle.jwt_authority(authority_id):
            return True
        record = next(one for one in reversed(self.table.history) if one.authority_id == authority_id and one.published)
        return {authority.der for authority in self.bundle.x509_authorities}.issuperset(record.roots)

    def _used(self, authority_id: str, until: int) -> None:
        self.used_until[authority_id] = max(until, self.used_until.get(authority_id, 0))


def svid_request(spiffe_id: SpiffeId = WORKLOAD, ttl: timedelta = HOUR, **more: object) -> SvidRequest:
    """A request for the X509-SVID of a workload."""
    values: Mapping[str, object] = {"kind": Kind.WORKLOAD_X509_SVID, "public_key": LEAF_KEY, **more}
    return SvidRequest(spiffe_id=spiffe_id, ttl=ttl, **values)  # type: ignore[arg-type]


def authority_key(key_type: KeyType = KeyType.EC_P256, authority_id: str = "authority") -> AuthorityKey:
    """The key of an authority, made in memory."""
    from keymanagers.memory import MemoryKeyManager  # noqa: PLC0415  most tests use a device of their own

    key = MemoryKeyManager().generate(KeyId("key"), key_type)
    return AuthorityKey(key, AuthorityId(authority_id))


def killed_at(point: str) -> Progress:
    """A hook that kills its server the first time it reaches ``step/state``, the state being the record's then."""

    def progress(step: object, record: AuthorityRecord) -> None:
        if f"{step}/{record.state}" == point:
            raise Killed(point)

    return progress


def jwt_request(audience: str = "audience", ttl: timedelta = HOUR) -> JwtSvidRequest:
    """A request for the JWT-SVID of a workload."""
    return JwtSvidRequest(spiffe_id=WORKLOAD, audience=(audience,), ttl=ttl)

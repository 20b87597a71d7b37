"""What the rest of an agent tells its Workload API, in a test's hand: identities, bundles and tokens that are real.

``FakeIdentities`` has a registry of entries and an authority; it signs SVIDs when they are asked for, wakes
subscribers when a test changes something, and matches selectors as an agent does.
"""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.identities import Identity, Selectors, WorkloadState, WorkloadSvid
from spiffe_core.bundle import Bundle, JwtAuthority
from spiffe_core.entries import Entry, EntryId, Selector
from spiffe_core.errors import SpiffeError
from spiffe_core.ids import SpiffeId, TrustDomain
from spiffe_core.jwtsvid import JwtSvid, parse_jwt_svid
from tests.support import tokens
from tests.support.pki import Realm

FIVE_MINUTES = timedelta(minutes=5)


@dataclass
class Domain:
    """A trust domain that is alive now, with an X.509 and a JWT authority."""

    realm: Realm = field(default_factory=Realm)
    jwt_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    kid: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def trust_domain(self) -> TrustDomain:
        """Its name."""
        return self.realm.trust_domain

    @property
    def jwt_authority(self) -> JwtAuthority:
        """The JWT authority in its bundle."""
        return tokens.authority(self.kid, self.jwt_key)

    @property
    def bundle(self) -> Bundle:
        """Its bundle."""
        return replace(self.realm.bundle, jwt_authorities=(self.jwt_authority,))

    def token(self, spiffe_id: str, audience: Sequence[str], **claims: object) -> str:
        """A JWT-SVID that is valid for five minutes; other claims come beside or instead."""
        now = int(datetime.now(UTC).timestamp())
        usual = {"sub": spiffe_id, "aud": list(audience), "iat": now, "exp": now + 300}
        return tokens.signed({"alg": "ES256", "kid": self.kid, "typ": "JWT"}, {**usual, **claims}, self.jwt_key)


class FakeSubscription:
    """``agent.identities.Subscription``."""

    def __init__(self, identities: "FakeIdentities", selectors: Selectors, *, svids: bool) -> None:
        self._identities = identities
        self._selectors = selectors
        self._svids = svids
        self.seen = -1

    def __enter__(self) -> Self:
        self._identities.subscriptions.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._identities.subscriptions.remove(self)

    async def next(self) -> WorkloadState:
        """The state, at once the first time; then after each change."""
        async with self._identities.changed:
            await self._identities.changed.wait_for(
                lambda: self._identities.revision != self.seen and (self._identities.ready or not self._svids)
            )
            self.seen = self._identities.revision
        return self._identities.state(self._selectors, svids=self._svids)


class FakeIdentities:
    """``agent.identities.Identities``."""

    def __init__(self, domain: Domain | None = None) -> None:
        self.domain = domain or Domain()
        self.entries: list[Entry] = []
        self.federated: dict[TrustDomain, Bundle] = {}
        self.own: Bundle = self.domain.bundle
        self.ready = True
        """Whether SVIDs can be had; if not, whoever asks for one waits."""
        self.refuses_tokens: SpiffeError | None = None
        self.changed = asyncio.Condition()
        self.revision = 0
        self.subscriptions: list[FakeSubscription] = []
        self._svids: dict[EntryId, WorkloadSvid] = {}
        self._tokens: dict[tuple[EntryId, tuple[str, ...]], JwtSvid] = {}
        self._states: dict[tuple[Selectors, bool], tuple[int, WorkloadState]] = {}

    def add(self, path: str, *selectors: str, **members: object) -> Entry:
        """Register an entry; its ID sorts after those that are there."""
        entry = Entry(
            id=EntryId(f"entry-{len(self.entries):04}"),
            spiffe_id=SpiffeId(self.domain.trust_domain, path),
            parent_id=SpiffeId(self.domain.trust_domain, "/agent"),
            selectors=tuple(map(Selector.parse, selectors)),
            **members,  # type: ignore[arg-type]
        )
        self.entries.append(entry)
        return entry

    async def change(self) -> None:
        """Let subscribers know that something is not as before; return when all have taken the new state."""
        async with self.changed:
            self.revision += 1
            self.changed.notify_all()
        while any(one.seen != self.revision for one in self.subscriptions):  # noqa: ASYNC110  theirs is no event
            await asyncio.sleep(0.001)

    async def rotate(self, entry: Entry) -> None:
        """Give an entry a new SVID."""
        self._svids.pop(entry.id, None)
        await self.change()

    async def remove(self, entry: Entry) -> None:
        """Delete an entry."""
        self.entries.remove(entry)
        await self.change()

    def state(self, selectors: Selectors, *, svids: bool) -> WorkloadState:
        """The state of this moment; the same object until something changes."""
        kept = self._states.get((selectors, svids))
        if kept is not None and kept[0] == self.revision:
            return kept[1]
        mine = sorted((e for e in self.entries if selectors.issuperset(e.selectors)), key=lambda e: e.id)
        names = {name for entry in mine for name in entry.federates_with}
        made = WorkloadState(
            identities=tuple(Identity(e, self._svid(e) if svids else None) for e in mine),
            own=self.own,
            federated=tuple(self.federated[name] for name in sorted(names) if name in self.federated),
        )
        self._states[selectors, svids] = self.revision, made
        return made

    def state_of(self, selectors: Selectors) -> WorkloadState:
        """The state of this moment."""
        return self.state(selectors, svids=False)

    def subscribe(self, selectors: Selectors, *, svids: bool = True) -> FakeSubscription:
        """Follow the state."""
        return FakeSubscription(self, selectors, svids=svids)

    async def jwt_svid(self, entry: Entry, audience: Sequence[str]) -> JwtSvid:
        """A token, the same one each time; or what the test wants to be raised."""
        if self.refuses_tokens is not None:
            raise self.refuses_tokens
        key = entry.id, tuple(audience)
        if key not in self._tokens:
            self._tokens[key] = parse_jwt_svid(self.domain.token(str(entry.spiffe_id), audience))
        return self._tokens[key]

    def _svid(self, entry: Entry) -> WorkloadSvid:
        if entry.id not in self._svids:
            issued = self.domain.realm.issue(uri=str(entry.spiffe_id))
            leaf = issued.chain[0]
            self._svids[entry.id] = WorkloadSvid(
                chain=tuple(one.public_bytes(Encoding.DER) for one in issued.chain),
                private_key=issued.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
                not_before=leaf.not_valid_before_utc,
                not_after=leaf.not_valid_after_utc,
            )
        return self._svids[entry.id]

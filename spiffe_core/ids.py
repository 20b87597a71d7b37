"""SPIFFE IDs and trust domain names, to the letter of SPIFFE-ID.md.

Nothing is normalised: what is not in canonical form is refused, so that two texts name the same identity
exactly when they are equal.  Section numbers in the comments are those of SPIFFE-ID.md.
"""

import re
from dataclasses import dataclass, field
from typing import Final, Self

from spiffe_core.errors import InvalidSpiffeId

SCHEME: Final = "spiffe://"
MAX_ID_BYTES: Final = 2048
"""Longest SPIFFE ID in bytes, scheme included (§2.3)."""
MAX_TRUST_DOMAIN_BYTES: Final = 255
"""Longest trust domain name in bytes (§2.3)."""

# fullmatch on explicit ASCII sets: no ``$`` (it matches before a final newline) and no ``\w`` (it is Unicode).
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]+")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+")
_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._-]+)*")


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """The name of a trust domain, such as ``example.org``."""

    name: str

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidSpiffeId("trust domain is missing")
        if len(self.name) > MAX_TRUST_DOMAIN_BYTES:
            raise InvalidSpiffeId(f"trust domain name is longer than {MAX_TRUST_DOMAIN_BYTES} bytes")
        if not _TRUST_DOMAIN.fullmatch(self.name):
            raise InvalidSpiffeId(
                f"trust domain {self.name!r} is invalid: characters are limited to lowercase letters, "
                "numbers, dots, dashes, and underscores"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a trust domain from its name or from any SPIFFE ID in it, as SPIRE's inputs allow.

        Raises:
            InvalidSpiffeId: if ``text`` is neither.
        """
        if "://" in text:
            return cls(SpiffeId.parse(text).trust_domain.name)
        return cls(text)

    @property
    def id(self) -> "SpiffeId":
        """The ID of the trust domain itself, which its signing authorities carry (X509-SVID.md §3.2)."""
        return SpiffeId(self, "")

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A SPIFFE ID: a trust domain and a path, which is empty or starts with a slash."""

    trust_domain: TrustDomain
    path: str = field(default="")

    def __post_init__(self) -> None:
        path = self.path
        if path:
            if path[0] != "/":
                raise InvalidSpiffeId(f"path {path[:80]!r} must have a leading slash")
            if not _PATH.fullmatch(path) or "/." in path:
                _explain_path(path)
        if len(SCHEME) + len(self.trust_domain.name) + len(path) > MAX_ID_BYTES:
            raise InvalidSpiffeId(f"SPIFFE ID is longer than {MAX_ID_BYTES} bytes")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a SPIFFE ID.

        Raises:
            InvalidSpiffeId: if ``text`` is not exactly one, in canonical form.
        """
        if not text:
            raise InvalidSpiffeId("SPIFFE ID cannot be empty")
        if not text.startswith(SCHEME):
            raise InvalidSpiffeId(f"{text[:80]!r} is no SPIFFE ID: scheme is missing or invalid")
        name, slash, rest = text[len(SCHEME) :].partition("/")
        return cls(TrustDomain(name), slash + rest)

    @property
    def is_reserved(self) -> bool:
        """Whether the path belongs to the control plane: ``/spire`` and all below it (SPIRE's rule)."""
        return self.path == "/spire" or self.path.startswith("/spire/")

    def member_of(self, trust_domain: TrustDomain) -> bool:
        """Whether this ID lies in ``trust_domain``."""
        return self.trust_domain == trust_domain

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain.name}{self.path}"


def server_id(trust_domain: TrustDomain) -> SpiffeId:
    """The ID that every server of the trust domain presents."""
    return SpiffeId(trust_domain, "/spire/server")


def agent_id(trust_domain: TrustDomain, suffix: str) -> SpiffeId:
    """The ID of an agent: ``/spire/agent`` and the attestor's suffix, which starts with a slash.

    Raises:
        InvalidSpiffeId: if the suffix makes no valid path (§2.2), or the ID too long (§2.3).
    """
    return SpiffeId(trust_domain, f"/spire/agent{suffix}")


def _explain_path(path: str) -> None:
    """Raise with the first rule of §2.2 that ``path`` breaks; return if it breaks none (``/.x`` is fine)."""
    for segment in path[1:].split("/"):
        if not segment:
            what = "have a trailing slash" if path.endswith("/") else "contain empty segments"
            raise InvalidSpiffeId(f"path cannot {what}: {path[:80]!r}")
        if segment in {".", ".."}:
            raise InvalidSpiffeId(f"path cannot contain dot segments: {path[:80]!r}")
        if not _SEGMENT.fullmatch(segment):
            raise InvalidSpiffeId(
                f"path segment {segment[:80]!r} is invalid: characters are limited to letters, numbers, "
                "dots, dashes, and underscores"
            )

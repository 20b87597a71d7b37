"""The errors of Steeple, one tree, by what the caller can do about them.

::

    SpiffeError
     ├─ InvalidInput         what the caller sent is malformed
     │    ├─ InvalidSpiffeId, InvalidX509Svid, InvalidJwtSvid, InvalidBundle
     │    └─ InvalidEntry, InvalidSelector, InvalidCsr, InvalidConfig
     ├─ Unauthenticated      who is calling cannot be told
     ├─ Denied               authenticated but not allowed
     │    └─ AttestationFailed
     ├─ NotFound
     │    └─ KeyNotFound
     ├─ AlreadyExists
     ├─ FailedPrecondition   the request is right, the state is not
     ├─ ResourceExhausted    a rate, queue or quota is full: slow down
     ├─ Cancelled            the caller gave up before it had an answer
     ├─ Unsupported          this server does not do that
     ├─ Internal             our own fault, with a text that the caller may see
     └─ Unavailable          try again
          ├─ KeyManagerUnavailable
          ├─ DatastoreUnavailable
          └─ UpstreamUnavailable

Each text says what was wrong and, where it is not plain, what to do.  Texts hold no secret: they are
logged and sent to callers as they are.  What is not in this tree is a bug and reaches a caller only as
"internal error".
"""

from enum import IntEnum


class SpiffeError(Exception):
    """Root of the tree; never raised itself."""


class InvalidInput(SpiffeError):
    """What the caller sent is malformed; sending it again cannot help."""


class InvalidSpiffeId(InvalidInput):
    """A SPIFFE ID or trust domain name breaks the SPIFFE ID specification."""


class InvalidX509Svid(InvalidInput):
    """A certificate chain is no X509-SVID, or does not verify."""


class InvalidJwtSvid(InvalidInput):
    """A token is no JWT-SVID, or does not verify."""


class InvalidBundle(InvalidInput):
    """A trust bundle, or a member of one, is malformed."""


class InvalidEntry(InvalidInput):
    """A registration entry breaks a rule."""


class InvalidSelector(InvalidInput):
    """A selector is malformed."""


class InvalidCsr(InvalidInput):
    """A certificate signing request is malformed or not signed by its own key."""


class InvalidConfig(InvalidInput):
    """A configuration file or flag is wrong; the text starts with the dotted path of what is."""


class Unauthenticated(SpiffeError):
    """The caller cannot be identified."""


class DenialReason(IntEnum):
    """Why an agent was refused, as it is told (``spire.api.types.PermissionDeniedDetails.Reason``)."""

    UNKNOWN = 0
    AGENT_EXPIRED = 1
    AGENT_NOT_ATTESTED = 2
    AGENT_NOT_ACTIVE = 3
    AGENT_BANNED = 4
    AGENT_MUST_REATTEST = 5


class Denied(SpiffeError):
    """The caller is known and not allowed to do this; ``reason`` travels in the status details."""

    def __init__(self, message: str, reason: DenialReason | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class AttestationFailed(Denied):
    """Evidence about a node or workload was examined and refused."""


class NotFound(SpiffeError):
    """The named thing does not exist."""


class KeyNotFound(NotFound):
    """The key manager shows no key of that id."""


class AlreadyExists(SpiffeError):
    """The thing to be created is there already."""


class FailedPrecondition(SpiffeError):
    """The request is right but the state of the system does not allow it."""


class ResourceExhausted(SpiffeError):
    """A rate limit, queue or quota is full."""


class Cancelled(SpiffeError):
    """The caller gave up; only logs are told."""


class Unsupported(SpiffeError):
    """This server does not offer that function."""


class Internal(SpiffeError):
    """Our own fault, described for the caller."""


class Unavailable(SpiffeError):
    """Temporarily impossible; the same request may succeed later."""


class KeyManagerUnavailable(Unavailable):
    """The device that holds the keys does not answer, or a key it must hold does not show."""


class DatastoreUnavailable(Unavailable):
    """The database does not answer, is locked, full or read-only."""


class UpstreamUnavailable(Unavailable):
    """The upstream authority does not answer."""

"""What KeyManager "pkcs11" is told: which library, which token in it, where its PIN is, and whose keys."""

import re
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from keymanagers.pkcs11.cryptoki import TokenInfo
from keymanagers.pkcs11.pin import PinSource, parse_pin_source
from keymanagers.pkcs11.profiles import PROFILES
from keymanagers.pkcs11.uri import SCHEME, Pkcs11Uri
from spiffe_core.errors import InvalidConfig

_GROUP: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")
_NAMED: Final = ("module", "token", "pin_source")
_NOT_SELECTING: Final = {
    "slot_id": "slot numbers change from start to start: name the token, and its serial number",
    "object": "it names an object, and a whole token is wanted",
    "type": "it names objects, and a whole token is wanted",
    "id": "it names an object, and a whole token is wanted",
    "slot_manufacturer": "a token is chosen by what it says of itself, not by its slot",
    "slot_description": "a token is chosen by what it says of itself, not by its slot",
    "library_manufacturer": "the library is chosen by module-path, or by the setting module",
    "library_version": "the library is chosen by module-path, or by the setting module",
    "library_description": "the library is chosen by module-path, or by the setting module",
    "module_name": "libraries are not searched for: give module-path, or the setting module",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSelector:
    """Which token is meant; what is empty does not matter."""

    label: str = ""
    serial: str = ""
    manufacturer: str = ""
    model: str = ""

    @property
    def name(self) -> str:
        """How messages call the token."""
        return self.label or self.serial or self.model or self.manufacturer

    def matches(self, info: TokenInfo) -> bool:
        """Whether a token is what is meant."""
        return all(
            not wanted or wanted == found
            for wanted, found in (
                (self.label, info.label),
                (self.serial, info.serial),
                (self.manufacturer, info.manufacturer),
                (self.model, info.model),
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenChoice:
    """One token: in which library, which, and where its PIN is."""

    library: str
    selector: TokenSelector
    pin: PinSource | None


@dataclass(frozen=True, kw_only=True)
class Pkcs11Config:
    """``plugin_data`` of KeyManager "pkcs11": ``module`` and ``token``, or ``uri``, say where the keys live."""

    module: Path | None = None
    """The Cryptoki library, such as `/usr/lib/softhsm/libsofthsm2.so`."""
    token: str = ""
    """Label of an initialised token. Exactly one token must match."""
    serial: str = ""
    """Serial number of the token, where its label alone is not enough."""
    uri: Pkcs11Uri | None = None
    """The token as a PKCS #11 URI (RFC 7512), in place of `token` and `serial`; with `module-path` and `pin-source` \
in it also in place of `module` and `pin_source`."""
    tokens: tuple[str, ...] = field(default=(), repr=False)
    """Several tokens that hold the same keys, in place of `token`, `serial` and `uri`: each a label, or a PKCS #11 \
URI with all that a single one may say. Signatures are shared out among those that work; keys are made in the first."""
    pin_source: str = field(default="", repr=False)
    """Where the user PIN is: a file of mode 0400, as a path with a slash in it or a `file:` URI; `fd:NUMBER`; \
`env:NAME`; `credential:NAME`, of systemd; or `|` and a program that prints it."""
    profile: str = ""
    """What is particular to the vendor's tokens, where that is not seen from the token itself: `softhsm2`, \
`opencryptoki`, `tpm2-pkcs11`, `yubihsm2`, `cloudhsm`, `luna`, `nshield` or `generic`."""
    authority_group: str = ""
    """Whose keys these are: servers that share the token and this name share the keys. A server's default is its \
trust domain."""
    max_sessions: int = 16
    """Most operations at once. The token's own limit counts too; one session more keeps the login."""
    timeout: timedelta = timedelta(seconds=10)
    """Longest that an operation waits for a session, or for the library to be re-initialised."""
    reinitialize_interval: timedelta = timedelta(seconds=10)
    """Longest pause between two re-initialisations of the library because of this token, of which the first did not \
help and each disturbs whatever else works in the library. While nothing works, the pauses are half a second at most."""
    verify_signatures: bool = False
    """Check each signature with the public key before it is handed out. A server's authorities do so anyway."""

    def __post_init__(self) -> None:
        if self.tokens and (self.token or self.serial or self.uri is not None):
            raise InvalidConfig("tokens: use it or token, serial and uri, not both")
        if self.uri is not None and (self.token or self.serial):
            raise InvalidConfig("uri: use it or token and serial, not both")
        chosen = [(choice.library, choice.selector) for choice in self.choices]
        if len(set(chosen)) < len(chosen):
            raise InvalidConfig("tokens: names a token twice")
        if not _GROUP.fullmatch(self.authority_group):
            raise InvalidConfig("authority_group: must be 1 to 255 letters, digits, '.', '_' or '-'")
        if self.profile and self.profile not in PROFILES:
            raise InvalidConfig(f"profile: must be one of {', '.join(PROFILES)}")
        if self.max_sessions < 1:
            raise InvalidConfig("max_sessions: must be at least 1")
        if self.timeout <= timedelta():
            raise InvalidConfig("timeout: must be more than zero")
        if self.reinitialize_interval < timedelta():
            raise InvalidConfig("reinitialize_interval: must not be negative")

    @property
    def choices(self) -> tuple[TokenChoice, ...]:
        """Every token, the first in which keys are made first.

        Raises:
            InvalidConfig: if one is not told, or told twice.
        """
        if self.tokens:
            return tuple(self._listed(text) for text in self.tokens)
        if self.uri is not None:
            return (self._by_uri("uri", self.uri),)
        return (self._choice(self.module, TokenSelector(label=self.token, serial=self.serial), self.pin_source),)

    def _listed(self, text: str) -> TokenChoice:
        if not text.lower().startswith(SCHEME):
            return self._choice(self.module, TokenSelector(label=text), self.pin_source)
        try:
            return self._by_uri("tokens", Pkcs11Uri.parse(text))
        except InvalidConfig as exc:
            raise exc if str(exc).startswith(_NAMED) else InvalidConfig(f"tokens: {exc}") from None

    def _by_uri(self, setting: str, uri: Pkcs11Uri) -> TokenChoice:
        """The token of a URI, with what is the same for all where it is silent."""
        for name, why in _NOT_SELECTING.items():
            if getattr(uri, name) is not None:
                raise InvalidConfig(f"{setting}: attribute {name.replace('_', '-')!r} cannot be used: {why}")
        if self.module is not None and uri.module_path is not None and not self.tokens:
            raise InvalidConfig("module: use it or the uri's module-path, not both")
        if self.pin_source and uri.pin_source is not None and not self.tokens:
            raise InvalidConfig("pin_source: use it or the uri's pin-source, not both")
        selector = TokenSelector(
            label=uri.token or "",
            serial=uri.serial or "",
            manufacturer=uri.manufacturer or "",
            model=uri.model or "",
        )
        module = self.module if uri.module_path is None else Path(uri.module_path)
        return self._choice(module, selector, uri.pin_source or self.pin_source)

    def _choice(self, module: Path | None, selector: TokenSelector, pin_source: str) -> TokenChoice:
        if module is None or not str(module):
            raise InvalidConfig("module must be configured")
        if not selector.name:
            raise InvalidConfig("token must be configured")
        return TokenChoice(
            library=str(module), selector=selector, pin=parse_pin_source(pin_source) if pin_source else None
        )

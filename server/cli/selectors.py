"""Selectors and match modes as flags give them."""

from collections.abc import Iterable
from typing import Final

from spiffe_core.api.spire.api.types.selector_pb2 import Selector, SelectorMatch
from spiffe_core.errors import InvalidSelector
from spiffe_core.runtime.cli.errors import CommandError
from spiffe_core.runtime.gotext import quote

_MODES: Final = {
    "exact": SelectorMatch.MATCH_EXACT,
    "any": SelectorMatch.MATCH_ANY,
    "superset": SelectorMatch.MATCH_SUPERSET,
    "subset": SelectorMatch.MATCH_SUBSET,
}


def selectors_of(texts: Iterable[str]) -> list[Selector]:
    """The selectors of ``type:value`` texts; the value may hold colons, and what is empty the server judges.

    Raises:
        InvalidSelector: if there is no colon in one.
    """
    found = []
    for text in texts:
        kind, colon, value = text.partition(":")
        if not colon:
            raise InvalidSelector(f'selector "{text}" must be formatted as type:value')
        found.append(Selector(type=kind, value=value))
    return found


def match_of(mode: str, complaint: str = "match behavior {} unknown") -> SelectorMatch.MatchBehavior:
    """The match mode of that name.

    Raises:
        CommandError: if there is none.
    """
    if mode not in _MODES:
        raise CommandError(complaint.format(quote(mode)))
    return _MODES[mode]

"""Pages of a list, as SPIRE's clients know them.

A page's token is the number of its last row, in decimal, and comes with every page that is not empty: the last
page is an empty one.  Without a page size everything comes at once, and no token.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from spiffe_core.errors import InvalidInput

T = TypeVar("T")

_NUMBER: Final = re.compile(r"[0-9]{1,20}")
_UINT64: Final = 2**64
_LARGEST_ROW: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """What one call of a list gives; the token asks for the next page."""

    items: tuple[T, ...]
    next_token: str = ""


def paged(query: sa.Select[Any], row_id: ColumnElement[int], page_size: int, page_token: str) -> sa.Select[Any]:
    """The query for one page, in the order of the rows.

    Raises:
        InvalidInput: if the token is none.
    """
    query = query.order_by(row_id)
    if page_size <= 0:
        return query
    return query.where(row_id > _row_of(page_token)).limit(page_size)


def next_token(rows: "list[sa.Row[Any]]", page_size: int) -> str:
    """The token after these rows, which have a ``row_id``."""
    return str(rows[-1].row_id) if rows and page_size > 0 else ""


def _row_of(page_token: str) -> int:
    if not page_token:
        return 0
    if not _NUMBER.fullmatch(page_token) or int(page_token) >= _UINT64:
        raise InvalidInput(f"could not parse token '{page_token[:80]}'")
    return min(int(page_token), _LARGEST_ROW)

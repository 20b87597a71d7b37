"""How a filter compares a set that a row has (selectors, federated trust domains) with the set that it is given.

The rows' sets are in an index table of pairs (owner, member), so each comparison is a condition on the owner.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from spiffe_core.errors import InvalidInput

T = TypeVar("T")

MAX_MEMBERS: Final = 10_000
"""Most members of a set that is compared: every database has a limit to what one statement names."""


class Match(IntEnum):
    """The comparisons, under the numbers that they have on the wire."""

    EXACT = 0
    """The sets are equal."""
    SUBSET = 1
    """The row's set is not empty and holds nothing that is not in the given one."""
    SUPERSET = 2
    """The row's set holds all that is in the given one."""
    ANY = 3
    """The sets have a member in common."""


@dataclass(frozen=True, slots=True)
class SetMatch(Generic[T]):
    """A set and how it is compared."""

    members: frozenset[T]
    match: Match

    def __post_init__(self) -> None:
        if len(self.members) > MAX_MEMBERS:
            raise InvalidInput(f"a filter names {len(self.members)} members; {MAX_MEMBERS} are the most")


def matches(
    row_id: ColumnElement[int],
    index: tuple[ColumnElement[int], ColumnElement[Any]],
    members: "Sequence[object] | sa.Select[Any]",
    count: int,
    match: Match,
) -> ColumnElement[bool]:
    """The condition that the set of the row ``row_id`` matches the ``count`` members.

    ``index`` is the index table's columns (owner, member).
    """
    owner, member = index
    common = sa.select(owner).where(member.in_(members))
    if match is Match.ANY:
        return row_id.in_(common)
    if match is Match.SUPERSET:
        return row_id.in_(common.group_by(owner).having(sa.func.count() == count))
    holds_another = sa.exists().where(owner == row_id, member.not_in(members))
    if match is Match.SUBSET:
        return row_id.in_(common) & ~holds_another
    return row_id.in_(common.group_by(owner).having(sa.func.count() == count)) & ~holds_another

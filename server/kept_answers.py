"""What agents were last found to be entitled to, kept for as long as it holds.

Agents ask every few seconds, and seldom has anything changed.  An answer is found by looking below some IDs: it
holds while nothing below any of them changes.  So each change notes the ID below which it was, and an answer is
looked at again only for what was noted since.  That costs what changed meanwhile, and not what there is.

The same tuple is given as long as it holds, so whoever makes something of it can see that it is still right.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from spiffe_core.entries import Entry

MOST_KEPT: Final = 1_000_000
"""How many entries and IDs all answers may hold together; of more, those are kept that were asked for last."""
MOST_CHANGES: Final = 10_000
"""How many IDs with changes below them are remembered; answers from before the oldest do not hold."""


@dataclass(slots=True)
class _Answer:
    entries: tuple[Entry, ...]
    tops: AbstractSet[str]
    looked_below: AbstractSet[str]
    holds_at: int
    """The number of the last change of which it is known that it does not touch it."""

    @property
    def size(self) -> int:
        """How much it counts; an answer of nothing takes room too, as much as some entries."""
        return 16 + len(self.entries) + len(self.looked_below)


class KeptAnswers:
    """The answers of one graph, by the paths of the agents' IDs.  Not thread-safe, like the graph."""

    def __init__(self, most_kept: int = MOST_KEPT, most_changes: int = MOST_CHANGES) -> None:
        """Nothing is kept yet."""
        self._most_kept = most_kept
        self._size = 0
        self._most_changes = most_changes
        self._answers: dict[str, _Answer] = {}  # the last in order is the last used
        self._changes: dict[str, int] = {}  # the last in order is the newest
        self._newest = 0
        self._forgotten = 0

    def __len__(self) -> int:
        return len(self._answers)

    def note_change(self, path: str) -> None:
        """Something directly below the ID of that path has come, gone or become another."""
        if not self._answers:
            return
        self._newest += 1
        self._changes.pop(path, None)
        self._changes[path] = self._newest
        if len(self._changes) > self._most_changes:
            self._forgotten = self._changes.pop(next(iter(self._changes)))

    def get(self, agent: str, tops: AbstractSet[str]) -> tuple[Entry, ...] | None:
        """The agent's answer, if one is kept, begins at these IDs and still holds."""
        answer = self._answers.get(agent)
        if answer is None:
            return None
        if answer.tops != tops or self._is_touched(answer):
            self.drop(agent)
            return None
        answer.holds_at = self._newest
        del self._answers[agent]
        self._answers[agent] = answer
        return answer.entries

    def put(
        self, agent: str, tops: AbstractSet[str], looked_below: AbstractSet[str], entries: tuple[Entry, ...]
    ) -> None:
        """Keep what was found for the agent below these IDs, beginning at ``tops``."""
        self.drop(agent)
        answer = _Answer(entries, tops, looked_below, self._newest)
        self._answers[agent] = answer
        self._size += answer.size
        while self._size > self._most_kept:
            self.drop(next(iter(self._answers)))

    def drop(self, agent: str) -> None:
        """Forget the agent's answer."""
        answer = self._answers.pop(agent, None)
        if answer is not None:
            self._size -= answer.size

    def _is_touched(self, answer: _Answer) -> bool:
        if answer.holds_at < self._forgotten:
            return True
        for path, number in reversed(self._changes.items()):
            if number <= answer.holds_at:
                return False
            if path in answer.looked_below:
                return True
        return False

"""Tests that run on asyncio's event loop and again on uvloop's."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest
import uvloop

LOOPS: Final = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a coroutine test two tests, one for each kind of event loop."""

    @functools.wraps(test)
    def run(*, event_loop_kind: str, **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[event_loop_kind]) as runner:
            runner.run(test(**fixtures))

    asked_for = inspect.signature(test).parameters.values()
    kind = inspect.Parameter("event_loop_kind", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = inspect.Signature([*asked_for, kind])  # type: ignore[attr-defined]
    return pytest.mark.parametrize("event_loop_kind", list(LOOPS))(run)

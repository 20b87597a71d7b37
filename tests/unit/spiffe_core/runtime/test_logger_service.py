"""The Logger service: the levels of the wire are the levels of the log."""

import pytest

from spiffe_core.api.spire.api.server.logger.v1 import logger_pb2
from spiffe_core.api.spire.api.types import logger_pb2 as types_pb2
from spiffe_core.errors import InvalidInput
from spiffe_core.runtime.levels import Level, LevelSwitch
from spiffe_core.runtime.logger_service import LoggerService

LEVELS = {number: name for name, number in types_pb2.LogLevel.items() if number}


@pytest.mark.parametrize("number", LEVELS, ids=LEVELS.values())
async def test_a_level_has_the_same_name_on_the_wire(number):
    switch = LevelSwitch(Level.INFO)
    service = LoggerService(switch)
    found = await service.SetLogLevel(logger_pb2.SetLogLevelRequest(new_level=number), None)
    assert switch.current is Level[LEVELS[number]]
    assert found == types_pb2.Logger(current_level=number, launch_level=types_pb2.INFO)
    assert await service.GetLogger(None, None) == found
    await service.ResetLogLevel(None, None)
    assert switch.current is Level.INFO


@pytest.mark.parametrize(
    ("number", "message"),
    [(0, "newLevel value cannot be LogLevel_UNSPECIFIED"), (8, "unsupported log level"), (-1, "unsupported log level")],
)
async def test_a_level_that_is_none_is_refused(number, message):
    switch = LevelSwitch(Level.INFO)
    with pytest.raises(InvalidInput, match=f"^{message}$"):
        await LoggerService(switch).SetLogLevel(logger_pb2.SetLogLevelRequest(new_level=number), None)
    assert switch.current is Level.INFO

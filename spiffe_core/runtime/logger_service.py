"""The Logger service, which servers and agents offer on their private sockets: the log level, changed at run time."""

from typing import Final

import structlog

from spiffe_core.api.spire.api.server.logger.v1 import logger_pb2
from spiffe_core.api.spire.api.types import logger_pb2 as types_pb2
from spiffe_core.errors import InvalidInput
from spiffe_core.runtime.levels import Level, LevelSwitch

log: Final = structlog.get_logger()


class LoggerService:
    """``spire.api.server.logger.v1.Logger``, and the agent's service of the same shape."""

    def __init__(self, level: LevelSwitch) -> None:
        self._level = level

    async def GetLogger(self, _request: object, _call: object) -> types_pb2.Logger:  # noqa: N802  the RPC's name
        """The level in force, and the configured one."""
        return self._logger()

    async def SetLogLevel(self, request: logger_pb2.SetLogLevelRequest, _call: object) -> types_pb2.Logger:  # noqa: N802
        """Put another level in force."""
        if request.new_level == types_pb2.UNSPECIFIED:
            raise InvalidInput("newLevel value cannot be LogLevel_UNSPECIFIED")
        try:
            level = Level(request.new_level)  # the wire has the same numbers
        except ValueError as exc:
            raise InvalidInput("unsupported log level") from exc
        log.info("Log level changed", new_log_level=level.label, old_log_level=self._level.current.label)
        self._level.set(level)
        return self._logger()

    async def ResetLogLevel(self, _request: object, _call: object) -> types_pb2.Logger:  # noqa: N802
        """Put the configured level in force again."""
        self._level.reset()
        log.info("Log level reset", new_log_level=self._level.launch.label)
        return self._logger()

    def _logger(self) -> types_pb2.Logger:
        return types_pb2.Logger(
            current_level=self._level.current,  # type: ignore[arg-type]
            launch_level=self._level.launch,  # type: ignore[arg-type]
        )

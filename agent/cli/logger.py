"""``logger get|set|reset`` of the agent, over its admin socket."""

from agent.cli.client import calls_admin_api
from spiffe_core.api.spire.api.agent.logger.v1 import logger_pb2
from spiffe_core.runtime.cli.commands import Group
from spiffe_core.runtime.cli.logger import LoggerApi, add_logger_commands

logger = Group("logger")
add_logger_commands(
    logger,
    calls_admin_api,
    LoggerApi(
        logger_pb2.DESCRIPTOR,
        get=logger_pb2.GetLoggerRequest,
        set=logger_pb2.SetLogLevelRequest,
        reset=logger_pb2.ResetLogLevelRequest,
    ),
)

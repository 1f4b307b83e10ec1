"""Structured logs: one pipeline for this library, the application and everything it uses.

    from aioinfra.logs import get_logger, setup_logging

    setup_logging("info", environment="production", service_name="shop")
    log = get_logger(__name__)
    log.info("order paid", order_id=7, amount=12.5)

Nothing happens at import: without `setup_logging` lines go where the application sends its own.
"""

from aioinfra.context import bound, clear_request_context, set_request_context
from aioinfra.logs.decorators import log_exceptions, log_execution_time
from aioinfra.logs.files import FileOptions
from aioinfra.logs.logger import BoundLogger, get_logger
from aioinfra.logs.setup import Logging, LoggingOptions, current_logging, setup_logging
from aioinfra.logs.sink import SinkFigures, SinkOptions

__all__ = [
    "BoundLogger",
    "FileOptions",
    "Logging",
    "LoggingOptions",
    "SinkFigures",
    "SinkOptions",
    "bound",
    "clear_request_context",
    "current_logging",
    "get_logger",
    "log_exceptions",
    "log_execution_time",
    "set_request_context",
    "setup_logging",
]

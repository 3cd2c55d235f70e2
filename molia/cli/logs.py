"""Log lines of the verbs that run a node's code in this process."""

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor

from molia.base.config import LogConfig


def set_up_logging(config: LogConfig, *, worker: int | None = None) -> None:
    """Send log lines to stderr: text on a terminal, JSON elsewhere, unless a setting says.

    worker: the number of this process among the node's, put into each line.
    """
    as_text = config.format == "text" or (config.format == "auto" and sys.stderr.isatty())
    last = structlog.dev.ConsoleRenderer() if as_text else structlog.processors.JSONRenderer()
    level = logging.getLevelNamesMapping()[config.level.upper()]
    logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname)s %(message)s")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *([_says_worker(worker)] if worker is not None else []),
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _says_worker(index: int) -> Processor:
    def add(_: object, __: str, event: EventDict) -> EventDict:
        event.setdefault("worker", index)
        return event

    return add

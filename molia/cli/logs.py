"""Log lines of the verbs that run a node's code in this process."""

import logging
import sys

import structlog

from molia.base.config import LogConfig


def set_up_logging(config: LogConfig) -> None:
    """Send log lines to stderr: text on a terminal, JSON elsewhere, unless a setting says."""
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
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )

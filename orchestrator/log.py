"""Structured logs of the long-running verbs, on stderr: for people, or one JSON object a line.

Two things hold for both: a DSN never shows its password, and text from outside (names of orgs and
tasks) cannot command a terminal.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from orchestrator.config import LogSettings, redact
from orchestrator.text import printable

# Libraries whose chatter repeats what we log ourselves.
_QUIET = ("apscheduler", "sqlalchemy", "stamina", "alembic")
_SCHEME = re.compile(r"[\w.+-]+://", re.ASCII)


def configure(settings: LogSettings) -> None:
    """Send the logs of this process, and those of its libraries, to stderr as the settings say."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _hide_secrets,
    ]
    terminal = sys.stderr.isatty()
    last: list[Any] = [structlog.processors.JSONRenderer()]
    if settings.format == "console" or (settings.format == "auto" and terminal):
        last = [_escape, structlog.dev.ConsoleRenderer(colors=terminal)]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    _adopt_libraries(level, shared, last)


def _adopt_libraries(level: int, shared: list[Any], last: list[Any]) -> None:
    """Render what libraries log through `logging` in the same way."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _hide_secrets(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    return {key: hidden(value) if isinstance(value, str) else value for key, value in event.items()}


def hidden(text: str) -> str:
    """Return `text` without the passwords of the DSNs in it; when in doubt, with less."""
    scheme = _SCHEME.search(text)
    at = scheme.start() if scheme else len(text)
    return redact(text[:at]) + redact(text[at:])


def _escape(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    return {
        key: "\n".join(map(printable, value.split("\n"))) if isinstance(value, str) else value
        for key, value in event.items()
    }

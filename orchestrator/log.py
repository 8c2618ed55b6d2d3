"""Structured logs of the long-running verbs, on stderr: for people, or one JSON object a line.

Two things hold for both: a DSN never shows its password, and text from outside (names of orgs and
tasks) cannot command a terminal.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Mapping, MutableMapping
from types import TracebackType
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
        # A line in one write: the server's process shares this stream, also where it is unbuffered.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    _adopt_libraries(level, shared, last)
    # What nobody caught, in the log as well: a traceback on bare stderr would be said as it is.
    sys.excepthook = _crashed
    threading.excepthook = _thread_crashed


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    structlog.get_logger().critical("process.crashed", exc_info=(kind, error, trace))


def _thread_crashed(crash: threading.ExceptHookArgs) -> None:
    if crash.exc_value is None or issubclass(crash.exc_type, SystemExit):
        return
    structlog.get_logger().critical(
        "thread.crashed",
        thread=crash.thread.name if crash.thread else None,
        exc_info=(crash.exc_type, crash.exc_value, crash.exc_traceback),
    )


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
    return {
        key: hidden_lines(value)
        if key == "exception" and isinstance(value, str)
        else _without_secrets(value)
        for key, value in event.items()
    }


def _without_secrets(value: Any) -> Any:
    """Return `value` with what is hidden in the texts inside it; an object by what it says."""
    if isinstance(value, str):
        return hidden(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {key: _without_secrets(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_without_secrets(inner) for inner in value]
    return hidden(str(value))


def hidden(text: str) -> str:
    """Return `text` without the passwords of the DSNs in it; when in doubt, with less."""
    scheme = _SCHEME.search(text)
    at = scheme.start() if scheme else len(text)
    return redact(text[:at]) + redact(text[at:])


def hidden_lines(text: str) -> str:
    """Return a traceback without passwords, line by line: what is hidden of a DSN may reach to the
    end of its text.
    """
    return "\n".join(map(hidden, text.split("\n")))


def _escape(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    return {
        key: "\n".join(map(printable, value.split("\n"))) if isinstance(value, str) else value
        for key, value in event.items()
    }

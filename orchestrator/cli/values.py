"""What people type as values: durations, instants, JSON, and `none`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.errors import InvalidInput

NONE = "none"


def duration(option: str, text: str | None) -> float | None:
    """Return seconds of `30`, `30s`, `5m`; None where nothing was given."""
    if text is None:
        return None
    from pydantic import TypeAdapter, ValidationError

    from orchestrator.config.settings import Duration

    try:
        seconds: float = TypeAdapter(Duration).validate_python(text)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"{option} {text!r}: {reason}") from error
    return seconds


def instant(option: str, text: str | None) -> datetime | None:
    """Return an aware instant from ISO 8601; None where nothing was given."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(
            f"{option} {text!r} is not an instant: write 2026-05-01T09:30:00Z"
        ) from error
    if at.tzinfo is None:
        raise InvalidInput(f"{option} {text!r} has no time zone: add Z or an offset such as +02:00")
    return at


def number_or_none(option: str, text: str) -> int | None:
    """Return a whole number, or None for `none`."""
    if text.lower() == NONE:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise InvalidInput(f"{option} must be a whole number or {NONE!r}, not {text!r}") from error


def decimal_or_none(option: str, text: str) -> float | None:
    """Return a number, or None for `none`."""
    if text.lower() == NONE:
        return None
    try:
        number = float(text)
    except ValueError as error:
        raise InvalidInput(f"{option} must be a number or {NONE!r}, not {text!r}") from error
    if not math.isfinite(number):
        raise InvalidInput(f"{option} must be a number or {NONE!r}, not {text!r}")
    return number


def duration_or_none(option: str, text: str) -> float | None:
    """Return seconds of `30`, `30s`, `5m`, or None for `none`."""
    return None if text.lower() == NONE else duration(option, text)


def given(option: str, text: str | None, parse: Callable[[str, str], Any]) -> Any:
    """Return what `parse` makes of an option's text; `UNSET` where nothing was given."""
    from orchestrator.store.orgs import UNSET

    return UNSET if text is None else parse(option, text)


def payload(text: str) -> Any:
    """Return the JSON value of a literal, of `@file`, or of `-` for standard input."""
    if text == "-":
        return _json("standard input", sys.stdin.read())
    if text.startswith("@"):
        return _json(text[1:], read(Path(text[1:])))
    return _json("--payload", text)


def read(path: Path) -> str:
    """Return the text of a file; raise `InvalidInput` where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InvalidInput(f"no file {path}: check its name") from error
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text") from error


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{where} is not valid JSON: {error}") from error


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")

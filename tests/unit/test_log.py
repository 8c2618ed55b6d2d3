"""What the log never says: passwords, wherever in an event they are."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import structlog

from orchestrator import log
from orchestrator.config import LogSettings
from orchestrator.model import Claim
from orchestrator.worker.attempt import dead, failed

PASSWORD = "p@ss/w?rd"
DSNS = (
    f"postgresql://me:{PASSWORD}@db.example:5432/shop",
    f"postgresql://db/shop?user=me&password={PASSWORD}",
    f"host=db user=me password='{PASSWORD}'",
)


@pytest.fixture(params=["json", "console"])
def said(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Configure the log over a text of the test's own, and put everything back."""
    text = io.StringIO()
    monkeypatch.setattr(sys, "stderr", text)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    log.configure(LogSettings(format=request.param))
    yield text
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


def fail(dsn: str) -> None:
    try:
        raise ValueError(f"cannot read {dsn}")
    except ValueError as error:
        raise RuntimeError(f"no way to {dsn}") from error


@pytest.mark.parametrize("dsn", DSNS)
def test_a_password_is_said_nowhere(said: io.StringIO, dsn: str) -> None:
    logger: Any = structlog.get_logger()
    logger.warning("told", dsn=dsn, deep={"of": [dsn, (dsn,)]}, error=ValueError(dsn))
    logging.getLogger("a.library").error("no connection to %s", dsn)
    try:
        fail(dsn)
    except RuntimeError:
        logger.exception("failed", error=dsn)
        logging.getLogger("a.library").exception("failed")
    crash = threading.Thread(target=fail, args=(dsn,), name="crashing")
    crash.start()
    crash.join()
    try:
        fail(dsn)
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    told = said.getvalue()
    # All of it was logged, tracebacks too.
    assert told.count("no way to") >= 4
    assert "crashing" in told
    assert "process.crashed" in told
    for part in (PASSWORD, "ss/w?rd", "w?rd"):
        assert part not in told


def test_what_the_driver_says_of_a_dsn_is_hidden(said: io.StringIO) -> None:
    logger: Any = structlog.get_logger()
    for dsn in (f"postgresql://me:{PASSWORD}@[broken/shop", f"password={PASSWORD!r} nonsense"):
        try:
            psycopg.connect(dsn)
        except psycopg.Error:
            logger.exception("failed")
    assert "w?rd" not in said.getvalue()


@pytest.mark.parametrize("end", [failed, dead])
@pytest.mark.parametrize("dsn", DSNS)
def test_the_history_keeps_no_password_that_a_handler_quoted(end: Any, dsn: str) -> None:
    claim = Claim.of({"dispatch_key": 1, "claim_id": uuid4(), "attempt": 1})
    error = end(claim, f"OSError: no way to {dsn}\n  File 'shop.py', line 3, in charge").error
    assert error.startswith("OSError: no way to ")
    assert error.endswith("in charge")
    assert "w?rd" not in error


def test_numbers_stay_numbers(said: io.StringIO) -> None:
    logger: Any = structlog.get_logger()
    logger.info("counted", tasks=3, took_ms=1.5, done=True, of=None, queues=["a", "b"])
    line = said.getvalue()
    if line.startswith("{"):
        event = json.loads(line)
        del event["timestamp"]
        assert event == {
            "event": "counted",
            "level": "info",
            "tasks": 3,
            "took_ms": 1.5,
            "done": True,
            "of": None,
            "queues": ["a", "b"],
        }

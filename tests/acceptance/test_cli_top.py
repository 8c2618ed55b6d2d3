"""`top`: what it shows, on a terminal and off it, and how it obeys."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from orchestrator.cli.top_screen import bar, sparkline
from tests.acceptance.cli import Shell
from tests.support.stage import Stage
from tests.support.waiting import PATIENCE_S, until


class Terminal:
    """`top` on a terminal of its own, and what that has shown."""

    def __init__(self, shell: Shell, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            shell.command("top", "--interval", "200ms", *arguments),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=shell.directory,
            env=shell.environment | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
        )
        os.close(theirs)
        self.seen = ""

    def shows(self, text: str) -> None:
        """Return once `text` is shown anew."""
        shown, end = "", time.monotonic() + PATIENCE_S
        while text not in shown:
            assert time.monotonic() < end, self.seen[-3000:]
            if select.select([self._ours], [], [], 0.1)[0]:
                more = os.read(self._ours, 65536).decode(errors="replace")
                shown, self.seen = shown + more, self.seen + more

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self._ours)


@pytest.fixture
def stage(dsn: str) -> Iterator[Stage]:
    with Stage(dsn) as opened:
        yield opened


def test_off_a_terminal_it_is_shown_once(dsn: str, tmp_path: Path, stage: Stage) -> None:
    stage.enqueue(3, "acme")
    stage.enqueue(120, "a\x1b[31mcme")

    out = Shell(dsn, tmp_path)("top").out

    lines = out.splitlines()
    assert lines[0].startswith("queue default   weighted   20")
    assert "no leader: nothing is admitted" in lines[1]
    answers = ["oldest of quiet orgs", "oldest waiting", "slots held", "in / out", "leader  "]
    places = [out.index(f"\n{each}") for each in [*answers, "admitted  ", "a\\x1b[31mcme"]]
    assert places == sorted(places)
    assert "\x1b" not in out
    (noisy,) = [line for line in lines if line.startswith("a\\x1b")]
    assert noisy.rstrip().endswith("noisy")


def test_the_document_has_what_the_picture_shows(dsn: str, tmp_path: Path, stage: Stage) -> None:
    stage.enqueue(3, "acme")
    stage.leader().tick()

    told = Shell(dsn, tmp_path)("top", "--json").json

    assert (told["queue"], told["paused"], told["slots"]["in_flight"]) == ("default", False, 3)
    (org,) = told["orgs"]
    assert (org["org"], org["share"], org["fair_share"]) == ("acme", 1.0, 1.0)
    assert len(told["pace"]) == 120
    assert (told["leader"]["alive"], told["alarms"]) == (True, [])


def test_it_obeys_its_keys_and_survives_its_session(dsn: str, tmp_path: Path, stage: Stage) -> None:
    shell = Shell(dsn, tmp_path)
    shell("queue", "set", "renders")
    stage.enqueue(2, "acme")
    terminal = Terminal(shell)
    try:
        terminal.shows("by slots")
        terminal.press("s")
        terminal.shows("by staged")
        terminal.press(" ")
        terminal.shows("held still")
        terminal.press(" ")
        with psycopg.connect(dsn, autocommit=True) as other:
            ended = other.execute(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                " where application_name = 'orchestrator cli'"
            ).fetchone()
            assert ended == (1,)
        terminal.shows("no newer picture")
        terminal.shows("queue default")
        terminal.press("n")
        terminal.shows("queue renders")
        terminal.press("q")
        assert terminal.process.wait(PATIENCE_S) == 0
    finally:
        terminal.close()


def test_what_cannot_be_watched_is_refused(dsn: str, tmp_path: Path) -> None:
    shell = Shell(dsn, tmp_path)
    assert "200ms" in shell.refused("top", "--interval", "1ms", code=2)
    assert "no queue 'nope'" in shell.refused("top", "--queue", "nope", code=1)


def test_a_little_is_never_drawn_as_nothing() -> None:
    assert sparkline([0.0, 0.001, 8.0, 16.0], 16.0) == " ▁▄█"
    assert sparkline([0.0] * 120, 1e-9) == " " * 60


def test_a_bar_marks_the_fair_share() -> None:
    assert bar(0.5, 0.25).plain == "████|█████··········"
    assert bar(0.0, 1.0).plain == "···················|"
    assert bar(1.0, 0.0).plain == "█" * 20


def test_waiting_for_the_next_look_costs_no_statement(
    dsn: str, tmp_path: Path, stage: Stage
) -> None:
    terminal = Terminal(Shell(dsn, tmp_path), "--interval", "60s")
    try:
        terminal.shows("by slots")
        query = (
            "select state from pg_stat_activity where application_name = 'orchestrator cli'"
            " and datname = current_database()"
        )
        until(lambda: stage.rows(query) == [("idle",)], "it rests")
    finally:
        terminal.close()

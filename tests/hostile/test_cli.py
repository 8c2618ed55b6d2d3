"""Hostile values through the command line: one line that says why, nothing stored, life goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.cli import Shell
from tests.hostile.cases import BAD_JSON, GOOD_JSON
from tests.hostile.living import Living
from tests.support.console import Said, say, workplace
from tests.support.hostile import REFUSED_NAMES, STORED

USAGE = (1, 2)
TEXTS = ["x" * 5_000, "a\0b", "\ud800"]
NAMES = {name: value for name, (value, _) in REFUSED_NAMES.items()}
NOT_WHOLE = ["0", "-1", "1000000000000", "9" * 5_000, "True", "high", "1.5", "nan", "٣x", "1e3", ""]
NOT_TIME = ["-1", "-0.1s", "nan", "inf", "Infinity", "1e400s", "soon", "5 parsecs", "9" * 400, ""]
NOT_INSTANT = [
    "2030-01-01T00:00:00", "infinity", "now", "10000-01-01T00:00:00Z", "0000-01-01T00:00:00Z",
    "1969-12-31T00:00:00Z", "9999-12-31T23:59:59-23:59", "2030-02-30T00:00:00Z", "1893456000", "",
    "2030-01-01T00:00:00+99:00",
]  # fmt: skip
SCHEDULE = ("schedule", "set", "s", "--task", "t", "--org", "a", "--cron")
ENQUEUE = ("enqueue", "keep", "--org", "acme")

# (what it is about, the arguments before the value, the values)
TABLE: list[tuple[str, tuple[str, ...], list[str]]] = [
    ("name", ("enqueue", "--org", "acme", "--"), list(NAMES.values())),
    ("org", ("enqueue", "keep", "--org"), list(NAMES.values())),
    ("queue", (*ENQUEUE, "--queue"), [*NAMES.values(), "no such queue"]),
    ("workload", (*ENQUEUE, "--workload"), [*NAMES.values(), "no such workload"]),
    ("idempotency key", (*ENQUEUE, "--idempotency-key"), list(NAMES.values())),
    ("priority", (*ENQUEUE, "--priority"), [*NOT_WHOLE, "11"]),
    ("max attempts", (*ENQUEUE, "--max-attempts"), NOT_WHOLE),
    ("timeout", (*ENQUEUE, "--timeout"), [*NOT_TIME, "0"]),
    ("delay", (*ENQUEUE, "--delay"), NOT_TIME),
    ("run at", (*ENQUEUE, "--run-at"), NOT_INSTANT),
    ("expires at", (*ENQUEUE, "--expires-at"), NOT_INSTANT),
    ("header", (*ENQUEUE, "--header"), ["none", "=x", "a=\0", "a=\ud800", "a=" + "x" * 100_000]),
    ("payload", (*ENQUEUE, "--payload"), list(BAD_JSON.values())),
    ("show", ("task", "show"), [*NOT_WHOLE, str(2**63), "1 or 1=1"]),
    ("explain", ("explain",), [*NOT_WHOLE, str(2**63)]),
    ("cancel", ("task", "cancel"), [*NOT_WHOLE, str(2**63)]),
    ("retry", ("task", "retry"), [*NOT_WHOLE, str(2**63)]),
    ("limit", ("task", "list", "--limit"), NOT_WHOLE),
    ("before", ("task", "list", "--before"), NOT_WHOLE[3:]),
    ("status", ("task", "list", "--status"), ["fine", "", "\0", "\ud800", "dead,failed"]),
    ("list queue", ("task", "list", "--queue"), [*NAMES.values(), "no such queue"]),
    ("weight", ("org", "set", "acme", "--weight"), NOT_WHOLE),
    ("burst", ("org", "set", "acme", "--burst-max"), NOT_WHOLE),
    ("tier of an org", ("org", "set", "acme", "--tier"), [*NAMES.values(), "no such tier"]),
    ("configured org", ("org", "set"), list(NAMES.values())),
    ("paused org", ("org", "pause"), list(NAMES.values())),
    ("reason", ("org", "pause", "acme", "--reason"), TEXTS),
    ("reason to cancel", ("task", "cancel", "1", "--reason"), TEXTS),
    ("tier", ("tier", "set"), list(NAMES.values())),
    ("tier weight", ("tier", "set", "gold", "--weight"), NOT_WHOLE),
    ("tier cap", ("tier", "set", "gold", "--burst-max"), NOT_WHOLE),
    ("workload name", ("workload", "set"), list(NAMES.values())),
    ("share", ("workload", "set", "mail", "--share"), NOT_WHOLE),
    ("express", ("workload", "set", "mail", "--express-max"), [*NOT_TIME, "0"]),
    ("queue name", ("queue", "set"), list(NAMES.values())),
    ("capacity", ("queue", "set", "default", "--capacity"), NOT_WHOLE),
    ("headroom", ("queue", "set", "default", "--headroom"), ["0", "-1", "nan", "inf", "x"]),
    ("kappa", ("queue", "set", "default", "--kappa"), NOT_WHOLE[1:]),
    ("max wait", ("queue", "set", "default", "--max-wait"), [*NOT_TIME, "0"]),
    ("cron", SCHEDULE,
     ["", "* * *", "99 * * * *", "* * * * * *", "@never", "0 0 30 2 *", "\0", "*/0 * * * *"]),
    ("zone", (*SCHEDULE, "@daily", "--timezone"),
     ["", "Nowhere/City", "../../etc/passwd", "/etc/localtime", "\0", "\ud800", "x" * 10_000]),
    ("schedule payload", (*SCHEDULE, "@daily", "--payload"), list(BAD_JSON.values())),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path) -> Iterator[None]:
    with workplace(tmp_path):
        yield


def typed(said: Said, value: object) -> None:
    """Check that a verb ended with one line about what was wrong, and no surprise."""
    shown = f"{value!r:.80}: {said!r:.600}"
    assert said.code in USAGE, shown
    # Verbs for several tasks say what became of the others.
    assert said.out == "" or said.out.startswith("0 "), shown
    assert len(said.err.splitlines()) == 1, shown
    assert said.err.startswith("orchestrator: "), shown
    assert "--debug shows where" not in said.err, shown
    assert "Traceback" not in said.err, shown
    assert len(said.err) < 3_000, shown
    assert all(char.isprintable() or char == "\n" for char in said.err), shown


@pytest.mark.parametrize(("about", "before", "values"), TABLE, ids=[row[0] for row in TABLE])
def test_each_value_is_refused_in_one_line(
    living: Living, about: str, before: tuple[str, ...], values: list[str]
) -> None:
    with living.unharmed():
        for value in values:
            if value.startswith("-") and before[-1].startswith("--"):
                arguments = (*before[:-1], f"{before[-1]}={value}")
            else:
                arguments = (
                    (*before, value) if not value.startswith("-") else (*before, "--", value)
                )
            typed(say(living.stage.dsn, *arguments), value)
            living.after_each()


@pytest.mark.parametrize("name", GOOD_JSON)
def test_good_json_is_stored_as_it_means(living: Living, name: str) -> None:
    text, meant = GOOD_JSON[name]
    said = say(living.stage.dsn, *ENQUEUE, "--delay", "1h", "--payload", text, "--json")
    assert said.code == 0, said
    task = json.loads(said.out)["id"]
    shown = json.loads(say(living.stage.dsn, "task", "show", str(task), "--json").out)
    assert shown["task"]["payload"] == meant
    assert say(living.stage.dsn, "task", "cancel", str(task)).code == 0


def test_lines_of_a_file_are_refused_with_their_number(living: Living, tmp_path: Path) -> None:
    with living.unharmed():
        for name, text in BAD_JSON.items():
            if text == "":
                continue  # an empty line is none
            line = '{"name": "keep", "org": "acme", "payload": ' + text + "}"
            (tmp_path / "tasks.jsonl").write_text(line + "\n", errors="surrogatepass")
            said = say(living.stage.dsn, "enqueue", "--from", "tasks.jsonl")
            typed(said, name)
            assert "1" in said.err
        for content in (b"\xff\xfe\n", b"\x00" * 100, b'{"name": "a\\udc80", "org": "b"}\n'):
            (tmp_path / "tasks.jsonl").write_bytes(content)
            typed(say(living.stage.dsn, "enqueue", "--from", "tasks.jsonl"), content)


def test_tables_show_the_corpus_escaped(living: Living) -> None:
    tasks = [{"name": text, "org": text, "delay": 3600} for text in STORED.values()]
    ids = [each.id for each in living.client.enqueue_many(tasks)]
    for arguments in (
        ("task", "list", "--limit", "500"),
        *(("task", "show", str(task)) for task in ids[::7]),
        *(("explain", str(task)) for task in ids[::7]),
        ("task", "cancel", *map(str, ids[::7])),
    ):
        said = say(living.stage.dsn, *arguments)
        assert said.code == 0, said
        assert all(char.isprintable() or char == "\n" for char in said.out + said.err), arguments
    for task in ids:
        living.client.cancel(task)


def test_bytes_that_are_no_text_are_refused_by_a_real_process(
    living: Living, tmp_path: Path
) -> None:
    shell = Shell(living.stage.dsn, tmp_path)
    command = [os.fsencode(part) for part in shell.command("enqueue", "keep", "--org")]
    ran = subprocess.run(
        [*command, b"ac\xff\xfeme"],
        capture_output=True,
        env=shell.environment,
        cwd=tmp_path,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 2
    assert ran.stdout == b""
    assert ran.stderr.startswith(b"orchestrator: ")
    assert b"Traceback" not in ran.stderr
    assert ran.stderr.count(b"\n") == 1
    assert sys.executable

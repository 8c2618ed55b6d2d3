"""Plans of the hot statements, made at the worst time: when every table was analysed while empty.

Sessions keep generic plans for as long as they live, so what is chosen then is run on millions of
rows later. With nothing to tell indexes apart, an index that serves the queue alone looks as good
as the right one, and reads all there is of the queue.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest

from orchestrator.store import admission, explain, lean, overview, preemption, queue, tasks
from orchestrator.store.sql import session_options

GROWING = "staging_queue|scheduled_queue|task_queue|lease|task|task_attempt|org_state|flow_state"
# These are meant to read all there is: sweeps, elections, and a cluster restored from elsewhere.
WHOLE = {
    "count_in_flight",
    "lowest_unclaimed",
    "restart_state",
    "rebuild_orgs",
    "rebuild_flows",
    "adopt_rows",
    "adopt_state",
    "renormalise",
    "lift",
    "asked_orgs",
}
BAD = (
    r"Index Cond: \(?(?:\w+\.)?queue = \S+\)?",
    # Meant by place, but a column of a key was in reach.
    r"Index Cond: \(\w+ = [hu]\.\w+\)",
)
SCAN = re.compile(rf"Scan (?:Backward )?using (\S+) on ((?:{GROWING})(?:_p\d+|_default)?)\b")


# Of statements for screens: those that look tasks up, whatever else they read up to a bound.
LOOKING_UP = {"place", "tasks_of_org", "asked", "flow", "position", "last_attempt"}


def _statements() -> Iterator[tuple[str, str]]:
    for shown in (explain.SQL, overview.SQL):
        for name in LOOKING_UP & set(shown):
            yield f"{name}, shown", shown[name].decode()
    for concern in (admission.SQL, queue.SQL, tasks.SQL, preemption.SQL):
        for name in concern:
            if name not in WHOLE | {"begin", "no_wait", "commit", "rollback", "tick"}:
                yield name, concern[name].decode()
        for name, text in concern._older.items():
            yield f"{name}, before 17", text.decode()
    for parted in (queue.CLAIM, queue.FINISH, lean.TICK):
        for name, text in parted.texts().items():
            yield name, text.decode()


def _plan(connection: psycopg.Connection[tuple[str]], text: str) -> list[str]:
    names: list[str] = []

    def numbered(match: re.Match[str]) -> str:
        name = match[1]
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    text = re.sub(r"%\((\w+)\)s", numbered, text).replace("%%", "%")
    connection.execute(f"prepare asked as {text}".encode())
    given = f"({','.join(['null'] * len(names))})" if names else ""
    rows = connection.execute(f"explain execute asked{given}".encode()).fetchall()
    connection.execute(b"deallocate asked")
    return [row[0] for row in rows]


def _temptations(plan: list[str]) -> list[str]:
    """Return the scans that read whatever there is of a queue, or of everything."""
    found = []
    for number, line in enumerate(plan):
        if (scan := SCAN.search(line)) is None:
            continue
        following = (part.strip() for part in plan[number + 1 : number + 3])
        condition = next((part for part in following if part.startswith("Index Cond")), "none")
        if condition == "none" or any(re.fullmatch(bad, condition) for bad in BAD):
            found.append(f"{scan[1]}: {condition}")
    return found


def test_no_hot_statement_is_tempted_by_an_index_on_the_queue_alone(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True, options=session_options()) as connection:
        if connection.info.server_version < 170000:
            pytest.skip("before PostgreSQL 17, `= ANY` is a condition of an index only at times")
        connection.execute("analyze")
        tempted = {
            name: temptations
            for name, text in _statements()
            if (temptations := _temptations(_plan(connection, text)))
        }
    # The newest tasks of the queue, up to a bound, and among them the org's.
    newest = tempted.pop("tasks_of_org, shown")
    assert all(re.match(r"task_(p\d+|default)_pkey:", each) for each in newest)
    assert tempted == {}

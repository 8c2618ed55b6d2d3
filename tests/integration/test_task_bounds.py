"""What every task must be: the table itself refuses the rest, whoever inserts it."""

from typing import Any

import psycopg
import pytest

from tests.support.stage import Stage

GOOD: dict[str, Any] = {
    "org_id": "acme",
    "name": "resize",
    "priority": 5,
    "max_attempts": 5,
    "timeout_s": None,
}
WIDE = "\N{SNOWMAN}"
ACCEPTED = [
    ("org_id", WIDE),
    ("org_id", WIDE * 200),
    ("name", WIDE),
    ("name", WIDE * 200),
    ("priority", 1),
    ("priority", 10),
    ("max_attempts", 1),
    ("max_attempts", 1000),
    ("timeout_s", None),
    ("timeout_s", 0.001),
]
REFUSED = [
    ("org_id", ""),
    ("org_id", "x" * 201),
    ("name", ""),
    ("name", "x" * 201),
    ("priority", 0),
    ("priority", 11),
    ("max_attempts", 0),
    ("max_attempts", 1001),
    ("timeout_s", 0.0),
    ("timeout_s", -1.0),
]
INSERT = """
insert into orchestrator.task (queue, id, org_id, workload, name, priority, max_attempts, timeout_s)
values (1, nextval('orchestrator.task_id'), %(org_id)s, 'etl', %(name)s, %(priority)s,
        %(max_attempts)s, %(timeout_s)s)
"""
# A session in which nothing means what it says.
LIAR = """
create schema liar;
create function liar.length(text) returns integer language sql immutable as 'select 1';
create function liar.yes(integer, integer) returns boolean language sql immutable as 'select true';
create function liar.yes(smallint, integer) returns boolean language sql immutable as 'select true';
create function liar.yes(float8, integer) returns boolean language sql immutable as 'select true';
create operator liar.>= (leftarg = integer, rightarg = integer, function = liar.yes);
create operator liar.<= (leftarg = integer, rightarg = integer, function = liar.yes);
create operator liar.>= (leftarg = smallint, rightarg = integer, function = liar.yes);
create operator liar.<= (leftarg = smallint, rightarg = integer, function = liar.yes);
create operator liar.> (leftarg = float8, rightarg = integer, function = liar.yes);
set search_path = liar, pg_catalog;
"""


@pytest.mark.parametrize(("column", "value"), ACCEPTED)
def test_a_task_at_its_bounds_is_stored(stage: Stage, column: str, value: object) -> None:
    stage.db.execute(INSERT, GOOD | {column: value})


@pytest.mark.parametrize(("column", "value"), REFUSED)
def test_a_task_past_its_bounds_is_refused_by_the_table(
    stage: Stage, column: str, value: object
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="task_within_bounds"):
        stage.db.execute(INSERT, GOOD | {column: value})


@pytest.mark.parametrize(("column", "value"), REFUSED)
def test_no_setting_of_a_session_lets_a_task_past_its_bounds(
    stage: Stage, column: str, value: object
) -> None:
    with stage.db.transaction(force_rollback=True):
        stage.db.execute(LIAR)
        with pytest.raises(psycopg.errors.CheckViolation, match="task_within_bounds"):
            stage.db.execute(INSERT, GOOD | {column: value})

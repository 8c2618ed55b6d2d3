"""`backlog_max`: what of an org may wait, for Python's clients."""

from __future__ import annotations

import psycopg
import pytest

from orchestrator import BacklogFull, Client, InvalidInput
from orchestrator.client.backlogs import Backlogs
from orchestrator.errors import DatabaseUnavailable
from orchestrator.model import TaskSpec
from orchestrator.store import orgs
from orchestrator.store.sql import Call, Operation, run
from tests.integration.conftest import ask
from tests.support.stage import Stage


def set_tier(dsn: str, name: str, **fields: int | None) -> None:
    with psycopg.connect(dsn) as connection:
        run(connection, orgs.set_tier(name, **fields, actor="test"))


def test_an_org_enqueues_up_to_its_bound_and_not_beyond(dsn: str, client: Client) -> None:
    client.set_org("acme", backlog_max=3)
    for _ in range(3):
        client.enqueue("t", org="acme")
    with pytest.raises(BacklogFull, match=r"'acme' has 3 tasks waiting, and may have 3") as caught:
        client.enqueue("t", org="acme")
    assert caught.value.retry_after_s > 0
    client.enqueue("t", org="other")
    assert client.set_org("acme", backlog_max=None).backlog_max is None
    with Client(dsn) as later:  # what the first one knows may be a second old
        later.enqueue("t", org="acme")


def test_a_batch_is_refused_as_a_whole(client: Client, dsn: str) -> None:
    client.set_org("acme", backlog_max=5)
    with pytest.raises(BacklogFull, match="6 tasks of org 'acme' exceed its backlog_max of 5"):
        client.enqueue_many([{"name": "t", "org": "acme"}] * 6 + [{"name": "t", "org": "b"}])
    assert ask(dsn, "select count(*) from orchestrator.task") == 0
    client.enqueue_many([{"name": "t", "org": "acme"}] * 5)


def test_what_is_there_already_takes_no_room(client: Client) -> None:
    client.set_org("acme", backlog_max=1)
    first = client.enqueue("t", org="acme", idempotency_key="k")
    again = client.enqueue("t", org="acme", idempotency_key="k")
    assert (again.id, again.created) == (first.id, False)
    with pytest.raises(BacklogFull):
        client.enqueue("t", org="acme", idempotency_key="other")
    with pytest.raises(BacklogFull):
        client.enqueue_many(
            [{"name": "t", "org": "acme", "idempotency_key": key} for key in ("k", "l")]
        )


def test_a_tier_bounds_its_orgs_and_an_org_overrides_it(dsn: str, client: Client) -> None:
    set_tier(dsn, "standard", backlog_max=1)
    client.set_org("big", backlog_max=2)
    for org, most in (("nobody configured", 1), ("big", 2)):
        for _ in range(most):
            client.enqueue("t", org=org)
        with pytest.raises(BacklogFull):
            client.enqueue("t", org=org)


def test_room_is_again_where_tasks_were_admitted(stage: Stage) -> None:
    stage.set_org("acme", backlog_max=2)
    with Client(stage.dsn) as client:
        client.enqueue_many([{"name": "t", "org": "acme"}] * 2)
        with pytest.raises(BacklogFull):
            client.enqueue("t", org="acme")
        stage.leader().tick()
        client.enqueue("t", org="acme")


def test_within_a_transaction_of_the_caller_nothing_is_spoilt(dsn: str, client: Client) -> None:
    client.set_org("acme", backlog_max=1)
    with psycopg.connect(dsn) as connection:
        client.enqueue("t", org="acme", connection=connection)
        with pytest.raises(BacklogFull):
            client.enqueue("t", org="acme", connection=connection)
        connection.execute("select 1")
    assert ask(dsn, "select count(*) from orchestrator.task") == 1


def test_counted_room_is_used_without_counting_again(stage: Stage) -> None:
    stage.set_org("acme", backlog_max=1000)
    spec = TaskSpec(name="t", org="acme")
    known = Backlogs(clock=lambda: 0.0)

    def statements() -> int:
        return steps(stage, known.check(1, [spec]))

    # One count leaves 999, of which a sixteenth is let in.
    assert [statements() for _ in range(64)] == [1] + [0] * 62 + [1]


def steps(stage: Stage, operation: Operation) -> int:
    """Run an operation; return how many statements it took."""
    count = 0
    try:
        request = next(operation)
        while True:
            assert isinstance(request, Call)
            count += 1
            rows = stage.db.execute(request.statement, request.params).fetchall()
            request = operation.send(rows)
    except StopIteration:
        return count


def test_where_nobody_has_a_bound_it_is_asked_once_in_a_while(stage: Stage) -> None:
    now = [0.0]
    known = Backlogs(clock=lambda: now[0])
    assert [steps(stage, known.bounded()) for _ in range(3)] == [1, 0, 0]
    now[0] = 10.0
    assert [steps(stage, known.bounded()) for _ in range(3)] == [1, 0, 0]


def test_while_it_is_not_known_whether_anybody_has_a_bound_everybody_asks(stage: Stage) -> None:
    stage.set_org("acme", backlog_max=1)
    known = Backlogs()
    failing = known.bounded()
    next(failing)
    # Others who come meanwhile have no answer yet.
    assert not known.surely_unbounded()
    assert run(stage.db, known.bounded())
    with pytest.raises(DatabaseUnavailable):
        failing.throw(DatabaseUnavailable("cut off"))
    assert not known.surely_unbounded()
    assert run(stage.db, known.bounded())


@pytest.mark.parametrize("wrong", [0, -1, True, "many", 2**31])
def test_what_is_no_bound_is_refused(client: Client, wrong: int) -> None:
    with pytest.raises(InvalidInput, match="backlog_max"):
        client.set_org("acme", backlog_max=wrong)

"""Who looks when work became claimable: whom the notification names, and others where need be.

No worker here polls: what it finds, it was called for.
"""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest

from orchestrator.store.names import ready_channel, worker_application
from orchestrator.wakeup.listener import Listener
from orchestrator.wakeup.summons import summons
from orchestrator.worker.app import App, Task
from tests.support.hub import hub, ids
from tests.support.ready import put_ready
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader
from tests.support.waiting import PATIENCE_S, pid_of, until
from tests.support.worker import enqueue, until_ended, working

NEVER_S = 1000.0


@pytest.fixture
def app() -> App:
    app = App()

    @app.task("x")
    def handler(task: Task) -> None:
        pass

    return app


@pytest.fixture
def pair(stage: Stage, app: App) -> Iterator[None]:
    """Two workers that listen and have nothing to do."""
    with parked(stage, app), parked(stage, app):
        yield


@contextmanager
def parked(stage: Stage, app: App) -> Iterator[None]:
    """Run a worker that listens, and has done all that was to be done."""
    others, looked = set(listeners(stage)), len(looks(stage))
    with working(app, stage.dsn, poll_max_s=NEVER_S):
        until(lambda: len(listeners(stage)) > len(others), "it listens")
        until(lambda: len(looks(stage)) > looked, "it prepares to look")
        # Once this has ended it has surely looked to the end.
        tasks = put_ready(stage, name="x")
        tell(stage, *(set(listeners(stage)) - others))
        until_ended(stage, tasks)
        yield


def listeners(stage: Stage) -> list[int]:
    """Return the backends of the sessions on which workers listen, the oldest first."""
    rows = stage.rows(
        "select pid from pg_stat_activity where datname = current_database()"
        " and application_name like 'orchestrator worker q=1 %%' order by backend_start"
    )
    return [pid for (pid,) in rows]


def looks(stage: Stage) -> dict[str, object]:
    """Return when each fetcher last looked, by its worker; those that have."""
    rows = stage.rows(
        "select substr(application_name, length('orchestrator fetcher ') + 1), query_start"
        " from pg_stat_activity where datname = current_database() and state = 'idle'"
        " and application_name like 'orchestrator fetcher %%' and query like '%%lease%%'"
        " order by backend_start"
    )
    return dict(rows)


def tell(stage: Stage, *pids: int) -> None:
    stage.db.execute("select pg_notify(%s, %s)", [ready_channel(1), summons(pids)])


@pytest.mark.usefixtures("pair")
def test_only_who_is_named_looks(stage: Stage) -> None:
    first, second = listeners(stage)
    idle, busy = looks(stage)
    before = looks(stage)
    for _ in range(20):
        tasks = put_ready(stage, name="x")
        tell(stage, second)
        until_ended(stage, tasks)
    after = looks(stage)
    # The other one has heard as often, and has sent nothing.
    assert after[idle] == before[idle]
    assert after[busy] != before[busy]
    tasks = put_ready(stage, name="x")
    tell(stage, first)
    until_ended(stage, tasks)
    assert looks(stage)[idle] != before[idle]


@pytest.mark.parametrize("payload", ["", "everybody"])
@pytest.mark.usefixtures("pair")
def test_all_look_where_nobody_is_named(stage: Stage, payload: str) -> None:
    before = looks(stage)
    stage.db.execute("select pg_notify(%s, %s)", [ready_channel(1), payload])
    until(
        lambda: (
            all(at != before[worker] for worker, at in looks(stage).items())
            and len(looks(stage)) == 2
        ),
        "both have looked",
    )


@pytest.mark.usefixtures("replica")
def test_work_that_a_dead_worker_was_called_for_is_taken_by_another(stage: Stage, app: App) -> None:
    with deaf(stage.dsn) as dead, deaf(stage.dsn) as other, parked(stage, app):
        theirs = {str(pid_of(session)) for session in (dead, other)}
        # How long a task takes, and who listens, is learnt in a moment: until then all are called.
        in_vain = 0
        for _ in range(1000):
            until_ended(stage, enqueue(stage, "x"))
            calls = [notice.payload for notice in dead.notifies(timeout=0)]
            in_vain += sum(set(call.split(",")) <= theirs for call in calls)
            if in_vain >= 5:
                break
        assert in_vain >= 5


def deaf(dsn: str) -> psycopg.Connection[object]:
    """Return a session that listens like a worker's, and behind which nobody looks."""
    session = psycopg.connect(dsn, autocommit=True, application_name=worker_application(1, 10))
    session.execute(f"listen {ready_channel(1)}".encode())
    return session


def test_a_leader_calls_one_then_two_then_all(stage: Stage) -> None:
    leader = SteppedLeader(stage.dsn).elect()
    with ExitStack() as opened:
        opened.callback(leader.close)
        crew = sorted((opened.enter_context(deaf(stage.dsn)) for _ in range(4)), key=pid_of)
        pids = [str(pid_of(session)) for session in crew]
        leader.reign.learn_who_listens()
        leader.scheduler.cost_us = 100
        stage.enqueue(1)
        done = leader.step()
        assert done.admitted == 1
        assert done.standing
        until(lambda: not leader.step().standing, "everybody was called")
        calls = [notice.payload for notice in crew[0].notifies(timeout=PATIENCE_S, stop_after=3)]
        assert calls == [pids[0], f"{pids[1]},{pids[2]}", ""]
        # And no more are called for the same task.
        for _ in range(20):
            assert not leader.tick().standing
        assert list(crew[0].notifies(timeout=0)) == []


def test_a_session_that_announces_the_impossible_does_not_end_the_term(stage: Stage) -> None:
    leader = stage.leader()
    impossible = worker_application(1, 10**20)
    with psycopg.connect(stage.dsn, application_name=impossible), deaf(stage.dsn):
        leader.reign.learn_who_listens()
    assert leader.reign.tick.window.parked >= 10
    stage.enqueue(1)
    assert leader.tick().admitted == 1


def test_a_new_leader_calls_all_for_what_the_one_before_left_ready(stage: Stage) -> None:
    with deaf(stage.dsn) as worker:
        put_ready(stage)
        leader = SteppedLeader(stage.dsn).elect()
        try:
            leader.tick()
            calls = worker.notifies(timeout=PATIENCE_S, stop_after=1)
            assert [call.payload for call in calls] == [""]
            leader.tick()
            assert list(worker.notifies(timeout=0)) == []
        finally:
            leader.close()


def test_who_waits_through_an_api_process_hears_what_names_others(stage: Stage) -> None:
    async def story() -> None:
        async with hub(stage.dsn) as api:
            await api.settle()
            waiting = asyncio.create_task(api.claim(wait_s=NEVER_S))
            await api.until_waiting(1)
            (task,) = put_ready(stage)
            tell(stage, 1)
            assert ids(await waiting) == [task]

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


# The listener by itself


@pytest.fixture
def listener(stage: Stage) -> Iterator[Listener]:
    listener = Listener(stage.dsn, {1: worker_application(1, 1)}, connect_timeout_s=5)
    assert listener.connect() == {1}
    yield listener
    listener.close()


def test_the_listener_passes_over_what_is_for_others(stage: Stage, listener: Listener) -> None:
    (mine,) = listeners(stage)
    tell(stage, mine + 1)
    assert listener.wait(0) == set()
    tell(stage, mine + 1, mine)
    assert listener.wait(PATIENCE_S) == {1}
    tell(stage, mine + 2)
    assert listener.wait(0) == set()


def test_what_is_for_others_hides_no_wake(stage: Stage, listener: Listener) -> None:
    (mine,) = listeners(stage)
    tell(stage, mine + 1)
    listener.wake()
    assert listener.wait(NEVER_S) == set()


def test_a_listener_that_does_not_know_its_backend_hears_everything(
    stage: Stage, listener: Listener
) -> None:
    listener._sessions[1] = listener._sessions[1]._replace(pid=None)
    tell(stage, 1)
    assert listener.wait(PATIENCE_S) == {1}

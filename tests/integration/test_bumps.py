"""Every path that makes work claimable moves the version of its queue on, after its commit."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple, cast

import pytest

from orchestrator import Client
from orchestrator.config import Settings
from orchestrator.errors import DatabaseUnavailable
from orchestrator.model import Claim
from orchestrator.store import orgs
from orchestrator.store.sql import run
from orchestrator.wakeup.bumper import Bumper
from tests.support.hub import hub, ids
from tests.support.redis import RedisServer, needs_redis, redis_server
from tests.support.replica import replica_thread
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader
from tests.support.waiting import PATIENCE_S, until


class Recorder:
    """Notes what another session sees ready at each bump."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.seen: list[int] = []

    def bump(self, database: str, queue: int) -> None:
        assert queue == 1
        assert database
        self.seen.append(
            self._stage.one("select count(*) from orchestrator.task_queue where claim_id is null")
        )

    @property
    def bumper(self) -> Bumper:
        return cast("Bumper", self)


def leader(stage: Stage, recorder: Recorder) -> Iterator[SteppedLeader]:
    stepped = SteppedLeader(stage.dsn, bumper=recorder.bumper)
    try:
        yield stepped
    finally:
        stepped.close()


@pytest.fixture
def recorder(stage: Stage) -> Recorder:
    return Recorder(stage)


@pytest.fixture
def stepped(stage: Stage, recorder: Recorder) -> Iterator[SteppedLeader]:
    yield from leader(stage, recorder)


def test_a_term_begins_with_a_bump(stepped: SteppedLeader, recorder: Recorder) -> None:
    stepped.elect()
    assert recorder.seen == [0]


def test_the_bump_of_a_tick_comes_after_its_commit(
    stage: Stage, stepped: SteppedLeader, recorder: Recorder
) -> None:
    stepped.elect()
    stage.enqueue(3)
    stepped.tick()
    assert recorder.seen == [0, 3]


def test_a_tick_that_admits_nothing_bumps_nothing(
    stepped: SteppedLeader, recorder: Recorder
) -> None:
    stepped.elect()
    stepped.tick()
    stepped.step()
    assert recorder.seen == [0]


def test_a_commit_whose_answer_was_lost_is_bumped(
    stage: Stage, stepped: SteppedLeader, recorder: Recorder
) -> None:
    stepped.elect()
    stage.enqueue(2)
    transaction = stepped.reign.tick._transaction
    does = transaction._run

    def deaf(operation: Any) -> Any:
        answer = does(operation)
        if stage.one("select count(*) from orchestrator.task_queue"):
            raise DatabaseUnavailable("the answer was lost")
        return answer

    transaction._run = deaf  # type: ignore[method-assign]
    with pytest.raises(DatabaseUnavailable):
        stepped.tick()
    assert recorder.seen == [0, 2]


# With a real Redis and a real leader, and a process that hears of nothing but the bump


class Scene(NamedTuple):
    """What a path has to work with."""

    stage: Stage
    client: Client

    def ended(self, claim: Claim) -> None:
        self.client.discard(claim, "test")

    def claim(self) -> Claim:
        (claim,) = self.client.claim(wait_s=PATIENCE_S)
        return claim

    def enqueue(self, **fields: Any) -> int:
        return self.client.enqueue("t", None, **{"org": "a", **fields}).id

    def set_queue(self, **fields: Any) -> None:
        with self.stage.db.transaction():
            run(self.stage.db, orgs.set_queue("default", actor="test", **fields))


Path = Callable[[Scene], Callable[[], object]]


def _enqueued(scene: Scene) -> Callable[[], object]:
    return scene.enqueue


def _express(scene: Scene) -> Callable[[], object]:
    return lambda: scene.enqueue(workload="api", priority=10)


def _critical(scene: Scene) -> Callable[[], object]:
    return lambda: scene.enqueue(critical=True)


def _promoted(scene: Scene) -> Callable[[], object]:
    return lambda: scene.enqueue(delay=timedelta(seconds=0.2).total_seconds())


def _nacked(scene: Scene) -> Callable[[], object]:
    scene.enqueue()
    claim = scene.claim()
    return lambda: scene.client.nack(claim, "no", delay=0)


def _nacked_with_delay(scene: Scene) -> Callable[[], object]:
    scene.enqueue()
    claim = scene.claim()
    return lambda: scene.client.nack(claim, "no", delay=0.2)


def _released(scene: Scene) -> Callable[[], object]:
    scene.enqueue()
    claim = scene.claim()
    return lambda: scene.client.release(claim)


def _snoozed(scene: Scene) -> Callable[[], object]:
    scene.enqueue()
    claim = scene.claim()
    return lambda: scene.client.snooze(claim, 0.1)


def _reaped(scene: Scene) -> Callable[[], object]:
    scene.enqueue()
    scene.claim()
    return scene.stage.expire_leases


def _retried(scene: Scene) -> Callable[[], object]:
    task = scene.enqueue()
    scene.client.discard(scene.claim())
    return lambda: scene.client.retry(task)


def _org_resumed(scene: Scene) -> Callable[[], object]:
    scene.client.set_org("a", tier="standard")
    scene.client.pause_org("a", "test")
    scene.enqueue()
    return lambda: scene.client.resume_org("a")


def _cap_raised(scene: Scene) -> Callable[[], object]:
    scene.client.set_org("a", burst_max=1)
    scene.enqueue()
    scene.claim()
    scene.enqueue()
    return lambda: scene.client.set_org("a", burst_max=2)


def _slot_freed(scene: Scene) -> Callable[[], object]:
    scene.client.set_org("a", burst_max=1)
    scene.enqueue()
    claim = scene.claim()
    scene.enqueue()
    return lambda: scene.client.ack(claim)


def _capacity_raised(scene: Scene) -> Callable[[], object]:
    scene.set_queue(capacity=1)
    scene.enqueue()
    scene.claim()
    scene.enqueue()
    return lambda: scene.set_queue(capacity=2)


def _queue_resumed(scene: Scene) -> Callable[[], object]:
    def pause(paused: bool) -> None:
        with scene.stage.db.transaction():
            run(scene.stage.db, orgs.pause_queue("default", paused=paused, actor="test"))

    pause(True)
    scene.enqueue()
    return lambda: pause(False)


PATHS: list[Path] = [
    _enqueued,
    _express,
    _critical,
    _promoted,
    _nacked,
    _nacked_with_delay,
    _released,
    _snoozed,
    _reaped,
    _retried,
    _org_resumed,
    _cap_raised,
    _slot_freed,
    _capacity_raised,
    _queue_resumed,
]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def scene(stage: Stage, redis: RedisServer) -> Iterator[Scene]:
    redis.client.flushall()
    with replica_thread(stage.dsn, Settings(redis=redis.settings())):
        until(lambda: redis.client.keys("*version*"), "a term begins with a bump")
        with Client(stage.dsn) as client:
            yield Scene(stage, client)


@needs_redis
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__.strip("_"))
def test_work_is_found_in_spite_of_a_verdict_in_redis(
    scene: Scene, redis: RedisServer, path: Path
) -> None:
    act = path(scene)

    async def story() -> None:
        async with hub(scene.stage.dsn, redis.settings(), listen=False) as api:
            await api.until_known_empty()
            waiting = asyncio.create_task(api.claim(wait_s=20))
            await api.until_waiting(1)
            await asyncio.to_thread(act)
            # Far sooner than the verdict would die of age.
            assert len(ids(await asyncio.wait_for(waiting, 10))) == 1

    asyncio.run(story())

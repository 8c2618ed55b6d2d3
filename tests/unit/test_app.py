"""The registry of handlers, and how an attempt ends: all without a database."""

import asyncio
import functools
import math
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from orchestrator.backoff import BACKOFF_MAX_S, backoff_s
from orchestrator.errors import InvalidInput
from orchestrator.model import AttemptStatus, Claim
from orchestrator.worker.app import App, Discard, Done, Snooze, Task, reference
from orchestrator.worker.attempt import ending, failed
from orchestrator.worker.errortext import ERROR_MAX_CHARS, clean, describe
from orchestrator.worker.job import Job
from orchestrator.worker.leases import Lease
from orchestrator.worker.pace import Pace


def claim(**fields: Any) -> Claim:
    known: dict[str, Any] = {
        "id": 7,
        "name": "resize",
        "payload_text": '{"width": 3}',
        "org": "acme",
        "queue": "default",
        "workload": "api",
        "priority": 8,
        "attempt": 2,
        "max_attempts": 5,
        "claim_id": uuid4(),
        "lease_expires_at": datetime.now(UTC),
        "dispatch_key": 70,
    }
    return Claim(**(known | fields))


def at_top_level(task: Task) -> None:
    pass


class Callables:
    def __call__(self, task: Task) -> None:
        pass


class AsyncCallables:
    async def __call__(self, task: Task) -> None:
        pass


def test_the_decorator_returns_the_function_itself() -> None:
    app = App()

    def handler(task: Task) -> None:
        pass

    assert app.task("resize")(handler) is handler
    assert app.handlers["resize"].function is handler


def test_a_name_is_registered_once() -> None:
    app = App()
    app.task("resize")(at_top_level)
    with pytest.raises(InvalidInput, match="has a handler already"):
        app.task("resize")(at_top_level)


@pytest.mark.parametrize("name", ["", "x" * 201, None, at_top_level])
def test_a_task_needs_a_name(name: Any) -> None:
    with pytest.raises(InvalidInput, match="give the task a name"):
        App().task(name)


async def coroutine(task: Task) -> None:
    pass


@pytest.mark.parametrize(
    ("function", "is_async"),
    [
        (at_top_level, False),
        (coroutine, True),
        (functools.partial(coroutine), True),
        (functools.partial(at_top_level), False),
        (Callables(), False),
        (AsyncCallables(), True),
        (AsyncCallables().__call__, True),
    ],
)
def test_sync_and_async_are_told_apart(function: Any, is_async: bool) -> None:
    app = App()
    app.task("x")(function)
    assert app.handlers["x"].is_async is is_async


def test_a_generator_is_refused_because_it_would_never_run() -> None:
    def generator(task: Task) -> Iterator[int]:
        yield 1

    async def async_generator(task: Task) -> AsyncIterator[int]:
        yield 1

    refused: list[Any] = [generator, async_generator]
    for function in refused:
        with pytest.raises(InvalidInput, match="generator"):
            App().task("x")(function)


def test_what_cannot_be_called_is_refused() -> None:
    uncallable: Any = "resize"
    with pytest.raises(InvalidInput, match="cannot be called"):
        App().task("x")(uncallable)


def test_a_task_shows_what_was_enqueued() -> None:
    created = datetime.now(UTC)
    task = Task(claim(headers={"trace": "1"}, created_at=created))
    seen = (task.id, task.name, task.payload, task.org, task.queue, task.workload, task.priority)
    assert seen == (7, "resize", {"width": 3}, "acme", "default", "api", 8)
    assert (task.attempt, task.max_attempts, task.headers) == (2, 5, {"trace": "1"})
    assert task.created_at == created
    assert not task.cancelled
    assert not task.should_yield


@pytest.mark.parametrize("delay_s", [-1, math.nan, math.inf, 1e12])
def test_a_snooze_without_an_end_is_refused(delay_s: float) -> None:
    with pytest.raises(InvalidInput, match="delay_s"):
        Snooze(delay_s)


@pytest.mark.parametrize(
    ("outcome", "status", "error", "delay_s"),
    [
        (None, AttemptStatus.SUCCEEDED, None, 0.0),
        (Done(), AttemptStatus.SUCCEEDED, None, 0.0),
        (Snooze(5), AttemptStatus.SNOOZED, None, 5.0),
        (Snooze(5, "busy"), AttemptStatus.SNOOZED, "busy", 5.0),
        (Discard(), AttemptStatus.DISCARDED, None, 0.0),
        (Discard("gone"), AttemptStatus.DISCARDED, "gone", 0.0),
    ],
)
def test_what_a_handler_returns_ends_the_attempt(
    outcome: object, status: AttemptStatus, error: str | None, delay_s: float
) -> None:
    told = ending(claim(), outcome)
    assert (told.status, told.error, told.delay_s) == (status, error, delay_s)
    assert told.dispatch_key == 70


@pytest.mark.parametrize("outcome", [42, True, "done", Snooze, Discard])
def test_anything_else_is_refused(outcome: object) -> None:
    with pytest.raises(InvalidInput, match="return None, Done, Snooze or Discard"):
        ending(claim(), outcome)


def test_a_forgotten_async_is_named() -> None:
    # The coroutine is closed: a warning that it was never awaited would fail this test.
    with pytest.raises(InvalidInput, match="async def"):
        ending(claim(), coroutine(Task(claim())))


def test_a_failure_is_tried_again_within_the_backoff() -> None:
    delays = [failed(claim(attempt=3), "x").delay_s for _ in range(200)]
    assert all(0 <= delay <= 4 for delay in delays)
    assert max(delays) > 2


@pytest.mark.parametrize("attempt", [0, 1, 5, 1000])
def test_backoff_doubles_up_to_a_bound(attempt: int) -> None:
    bound = min(BACKOFF_MAX_S, 2.0 ** max(0, attempt - 1))
    assert all(0 <= backoff_s(attempt) <= bound for _ in range(100))


class Unprintable(Exception):
    def __str__(self) -> str:
        raise SystemExit("not even this")


def raised(error: BaseException) -> BaseException:
    def handler() -> None:
        raise error

    try:
        handler()
    except BaseException as caught:  # noqa: BLE001 - it may be anything
        return caught
    raise AssertionError


def test_an_error_says_what_and_where() -> None:
    text = describe(raised(ValueError("no such thing")))
    assert text.startswith("ValueError: no such thing\n")
    assert "test_app.py" in text
    assert "raise error" in text


def test_an_error_that_cannot_be_shown_is_still_named() -> None:
    assert describe(raised(Unprintable())).startswith("Unprintable: (its text cannot be shown)")


def test_an_error_without_text_is_its_kind() -> None:
    assert describe(asyncio.CancelledError()) == "CancelledError"


def test_endless_recursion_is_described_in_a_few_lines() -> None:
    def forever() -> None:
        forever()

    with pytest.raises(RecursionError) as caught:
        forever()
    assert len(describe(caught.value).splitlines()) < 30


def test_error_text_is_what_postgresql_can_store() -> None:
    text = clean("a\0b\ud800c" + "x" * 10_000)
    assert text.startswith("a\N{REPLACEMENT CHARACTER}b?c")
    assert len(text) <= ERROR_MAX_CHARS


def test_what_another_process_can_import_is_found_by_reference() -> None:
    def local(task: Task) -> None:
        pass

    assert reference(at_top_level) == (__name__, "at_top_level")
    assert reference(local) is None
    assert reference(lambda task: None) is None
    assert reference(functools.partial(at_top_level)) is None


@pytest.mark.parametrize("end", [Job.cancel, Job.stop])
def test_an_attempt_that_was_ended_too_early_to_be_aborted_is_aborted_later(
    end: Callable[[Job], None],
) -> None:
    app = App()
    app.task("resize")(at_top_level)
    known = claim()
    job = Job(known, app.handlers["resize"], Lease(known.claim_id, 1, 1, 0.0), 0.0)
    calls: list[str] = []
    end(job)
    job.can_be_aborted_by(lambda: calls.append("aborted"))
    assert calls == ["aborted"]


def test_no_task_is_claimed_ahead_before_one_was_seen_to_finish() -> None:
    assert Pace(slots=10, ahead_max=500).ahead() == 0


@pytest.mark.parametrize(
    ("mean_s", "ahead"), [(1e-6, 500), (0.001, 500), (0.01, 50), (0.1, 5), (1.0, 0), (60.0, 0)]
)
def test_about_50_ms_of_work_are_claimed_ahead(mean_s: float, ahead: int) -> None:
    pace = Pace(slots=10, ahead_max=500)
    pace.observe(100, 100 * mean_s)
    assert pace.ahead() == ahead


def test_the_pace_follows_tasks_that_become_slow_and_fast_again() -> None:
    pace = Pace(slots=10, ahead_max=500)
    pace.observe(1000, 0.01)
    pace.stalled(1.0)
    assert pace.ahead() == 0
    for batch in range(1, 40):
        pace.observe(1000 + 20 * batch, 0.01)
    assert pace.ahead() == 500

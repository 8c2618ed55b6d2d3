"""Every order of the steps of two or more sessions, on a real server.

A script is a generator that executes one statement between two yields. Each runs on a thread of its
own and takes one step when told to. A step that waits for a lock is left waiting (the server says
that it is blocked, `pg_blocking_pids`), and the others go on; when it is its turn again, its turn
is passed over.

Of more orders than a test has time for, a sample is played; with INTERLEAVINGS=all, every one. What
was played is added to the file that INTERLEAVINGS_LOG names.
"""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from math import factorial, prod
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection

from orchestrator.errors import OrchestratorError
from orchestrator.store.sql import Call, Operation, explained, text_for
from tests.support.waiting import PATIENCE_S, blockers

Script = Generator[None, None, Any]
# A step takes a millisecond; only one that takes longer is asked whether it is blocked.
_LOOK_S = 0.003
# More than any script takes; a bound, so that a script that never ends fails its test.
_STEPS_MAX = 30
_ROUNDS_MAX = 10_000


def alone(connection: Connection[Any], operation: Operation) -> Script:
    """Run `operation` in autocommit, one statement a step."""
    try:
        request = next(operation)
        while True:
            calls = [request] if isinstance(request, Call) else list(request.calls)
            answers = [_execute(connection, calls[0])]
            for call in calls[1:]:
                yield
                answers.append(_execute(connection, call))
            request = operation.send(answers[0] if isinstance(request, Call) else answers)
            yield
    except StopIteration as done:
        return done.value


def together(connection: Connection[Any], operation: Operation, *, commit: bool = True) -> Script:
    """Run `operation` in one transaction, one statement a step; its end is the last step."""
    connection.execute("begin")
    value = yield from alone(connection, operation)
    yield
    connection.execute("commit" if commit else "rollback")
    return value


def code(
    connection: Connection[Any], work: Callable[[], Any], *, stops: Collection[bytes]
) -> Script:
    """Run ordinary code over `connection`; a step begins with each statement of `stops`.

    What the code sends between two of them belongs to the step before. Pipelines are taken apart,
    and a transaction ends with a statement of its own.
    """
    arrived, go = threading.Semaphore(0), threading.Semaphore(0)
    ended: list[tuple[Any, BaseException | None]] = []

    def perform() -> None:
        try:
            ended.append((work(), None))
        except BaseException as error:  # noqa: BLE001 -- carried to the actor's thread
            ended.append((None, error))
        arrived.release()

    def stop() -> None:
        arrived.release()
        go.acquire()

    # The first turn begins it all; what comes before the first stop belongs to that step.
    with _stopping(connection, stop, stops):
        thread = threading.Thread(target=perform, daemon=True)
        thread.start()
        arrived.acquire()
        while not ended:
            go.release()
            arrived.acquire()
            if not ended:
                yield
        thread.join(PATIENCE_S)
    value, error = ended[0]
    if error is not None:
        raise error
    return value


@contextmanager
def _stopping(
    connection: Any, stop: Callable[[], None], stops: Collection[bytes]
) -> Iterator[None]:
    execute = connection.execute

    def stepwise(statement: Any, *args: Any, **options: Any) -> Any:
        if statement in stops:
            stop()
        return execute(statement, *args, **options)

    @contextmanager
    def transaction() -> Iterator[None]:
        stepwise(b"begin")
        try:
            yield
        except BaseException:
            stepwise(b"rollback")
            raise
        stepwise(b"commit")

    connection.execute, connection.pipeline = stepwise, nullcontext
    connection.transaction = transaction
    # One statement at a time, where they can be seen.
    wire, connection.wire = getattr(connection, "wire", None), None
    try:
        yield
    finally:
        del connection.execute, connection.pipeline, connection.transaction
        connection.wire = wire


def _execute(connection: Connection[Any], call: Call) -> Any:
    cursor = connection.execute(text_for(connection, call), call.params, binary=True)
    return cursor.fetchall() if cursor.description else []


@dataclass
class Actor:
    """One session that plays one script."""

    connection: Connection[Any]
    script: Script
    steps: int = 0
    value: Any = None
    error: BaseException | None = None
    done: bool = False
    _turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _rest: threading.Event = field(default_factory=threading.Event)

    def start(self) -> threading.Thread:
        """Start the thread; it waits for its first turn."""
        self._rest.set()
        thread = threading.Thread(target=self._play, daemon=True)
        thread.start()
        return thread

    @property
    def resting(self) -> bool:
        """Tell whether the last step is over."""
        return self._rest.is_set()

    def step(self, observer: Connection[Any]) -> None:
        """Take one step; return when it is over, or when it waits for another session."""
        self._rest.clear()
        self._turn.release()
        self.settle(observer)

    def settle(self, observer: Connection[Any]) -> None:
        """Return when the step under way is over, or waits for another session."""
        for _ in range(round(PATIENCE_S / _LOOK_S)):
            if self._rest.wait(_LOOK_S) or blockers(observer, self.connection):
                return
        raise TimeoutError("a step neither ends nor waits for a lock")

    def _play(self) -> None:
        while not self.done:
            self._turn.acquire()
            try:
                next(self.script)
            except StopIteration as over:
                self.value, self.done = over.value, True
            except psycopg.Error as error:
                self.error, self.done = explained(error), True
                self.connection.rollback()
            except OrchestratorError as error:
                self.error, self.done = error, True
                self.connection.rollback()
            self.steps += 1
            self._rest.set()


Cast = Mapping[str, Actor]


def play(observer: Connection[Any], cast: Cast, order: Iterable[str]) -> None:
    """Let the actors step in `order`, by name, then let those that are left finish."""
    threads = [actor.start() for actor in cast.values()]
    for name in order:
        _turn(observer, cast, name)
    for _ in range(_ROUNDS_MAX):
        if all(actor.done for actor in cast.values()):
            break
        for name in cast:
            _turn(observer, cast, name)
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the actors wait for one another"


def _turn(observer: Connection[Any], cast: Cast, name: str) -> None:
    actor = cast[name]
    if actor.resting and not actor.done:
        actor.step(observer)
    # What this step set free runs on at once: until it rests, or waits again.
    for other in cast.values():
        if not other.resting:
            other.settle(observer)


def orders(steps: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    """Yield every order of that many steps of each actor."""
    if not any(steps.values()):
        yield ()
    for name, left in steps.items():
        if left:
            for rest in orders({**steps, name: left - 1}):
                yield (name, *rest)


def explore(
    observer: Connection[Any],
    scene: Callable[[], Cast],
    check: Callable[[Cast], None],
    *,
    most: int = 100,
) -> int:
    """Play `scene` anew in every order and `check` each outcome; return how many orders there were.

    Of more than `most` orders a sample is played, the same at each run. How many steps an actor
    takes at most is learned by letting each go first, to its end.
    """

    def perform(order: Sequence[str]) -> Cast:
        cast = scene()
        play(observer, cast, order)
        try:
            check(cast)
        except AssertionError as error:
            error.add_note(f"in the order {' '.join(order)}")
            raise
        return cast

    names = list(perform(()))
    rehearsals = [perform([name] * _STEPS_MAX) for name in names]
    steps = {name: max(cast[name].steps for cast in rehearsals) for name in names}
    there = factorial(sum(steps.values())) // prod(map(factorial, steps.values()))
    if os.environ.get("INTERLEAVINGS") == "all" or there <= most:
        chosen = list(orders(steps))
    else:
        chosen = list(_sample(steps, most))
    for order in chosen:
        perform(order)
    _note(len(chosen), there)
    return len(chosen)


def _sample(steps: Mapping[str, int], most: int) -> Iterator[tuple[str, ...]]:
    """Yield `most` different orders, the same at each run."""
    draw, seen = random.Random(0), set[tuple[str, ...]]()
    turns = [name for name, count in steps.items() for _ in range(count)]
    while len(seen) < most:
        draw.shuffle(turns)
        if (order := tuple(turns)) not in seen:
            seen.add(order)
            yield order


def _note(played: int, there: int) -> None:
    """Write down what a test played, where somebody asked for it."""
    if log := os.environ.get("INTERLEAVINGS_LOG"):
        test = os.environ["PYTEST_CURRENT_TEST"].removesuffix(" (call)")
        with Path(log).open("a") as file:
            file.write(json.dumps({"test": test, "played": played, "of": there}) + "\n")

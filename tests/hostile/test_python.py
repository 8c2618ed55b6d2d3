"""Hostile values through the Python clients: a typed error, nothing stored, and life goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from orchestrator import AsyncClient, OrchestratorError, Task
from orchestrator.store import orgs
from orchestrator.store.sql import run
from tests.hostile.cases import CASES, Case
from tests.hostile.living import APP, SEEN, Living, refused
from tests.support.hostile import LONG, STORED
from tests.support.worker import until_ended

FIRST: dict[str, dict[str, Any]] = {
    "enqueue": {"name": "keep", "org": "acme"},
    "set_org": {"org": "acme"},
    "pause_org": {"org": "acme"},
    "heartbeat": {"spare": 1},
}
GROUPS = sorted({(case.verb, case.field) for case in CASES})


def arguments(case: Case) -> dict[str, Any]:
    """Return the arguments of the call: what must be there, and the value of the case."""
    return FIRST.get(case.verb, {}) | {case.field: case.value}


@pytest.mark.parametrize(("verb", "field"), GROUPS, ids=str)
def test_each_value_is_refused_by_both_clients(living: Living, verb: str, field: str) -> None:
    with living.unharmed():
        for case in CASES:
            if (case.verb, case.field) == (verb, field):
                refused(partial(getattr(living.client, verb), **arguments(case)), case.complaint)
                living.after_each()
        asyncio.run(_all_async(living.stage.dsn, verb, field))


async def _all_async(dsn: str, verb: str, field: str) -> None:
    async with AsyncClient(dsn) as client:
        for case in CASES:
            if (case.verb, case.field) == (verb, field):
                outcome = await outcome_of(getattr(client, verb)(**arguments(case)))
                refused(outcome, case.complaint)


async def outcome_of(verb: Awaitable[object]) -> Callable[[], object]:
    """Await a verb; return what gives its value, or raises its error, when it is called."""
    try:
        value = await verb
    except OrchestratorError as error:
        raised = error

        def again() -> object:
            raise raised

        return again
    return lambda: value


def test_every_text_of_the_corpus_comes_back_as_it_was_sent(living: Living) -> None:
    names = list(STORED)
    tasks = [
        {
            "name": "keep",
            "org": STORED[name],
            "payload": {"text": STORED[name], STORED[name]: [name]},
            "idempotency_key": STORED[name],
            "headers": {STORED[name]: STORED[name]},
        }
        for name in names
    ]
    ids = [each.id for each in living.client.enqueue_many(tasks)]
    until_ended(living.stage, ids)
    for name, task in zip(names, ids, strict=True):
        text = STORED[name]
        assert SEEN.pop(task) == (text, {"text": text, text: [name]}), name
        info = living.client.get(task)
        assert (info.org, info.idempotency_key, info.headers) == (text, text, {text: text}), name
        assert living.client.explain(task).reasons
    living.sing()


def test_queues_of_the_corpus_are_told_apart_and_served(living: Living) -> None:
    chosen = ("sql_comment", "title", "newline", "quote", *LONG)
    for name, text in {name: STORED[name] for name in chosen}.items():
        with living.stage.db.transaction():
            run(living.stage.db, orgs.set_queue(text, actor="test"))
        task = living.client.enqueue("keep", name, org="acme", queue=text).id
        assert living.client.get(task).queue == text
    for name in ("sixty_three_bytes_a", "sixty_three_bytes_b"):
        (claim,) = living.client.claim(STORED[name], wait_s=10)
        assert claim.payload == name
        living.client.ack(claim)
    for (waiting,) in living.stage.rows("select task_id from orchestrator.staging_queue"):
        living.client.cancel(waiting)
    living.sing()


class Huge(Exception):
    def __str__(self) -> str:
        return "x" * 50_000_000


class Sinister(str):
    """Text that attacks whoever handles it."""

    def __getitem__(self, key: Any) -> str:
        raise SystemExit(3)

    def __format__(self, spec: str) -> str:
        raise SystemExit(4)

    def __bool__(self) -> bool:
        raise SystemExit(5)

    __len__ = __hash__ = None  # type: ignore[assignment]


class Raising(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


class NoText(Exception):
    def __str__(self) -> str:
        return None  # type: ignore[return-value]  # noqa: PLE0307 - on purpose


class WithSinister(Exception):
    def __str__(self) -> str:
        return Sinister("text")


class Changing(Exception):
    @property
    def __class__(self) -> type:
        raise RuntimeError("no class")

    @__class__.setter
    def __class__(self, value: type) -> None: ...


class Endless(Exception):
    """Its own cause."""

    def __init__(self) -> None:
        self.__cause__ = self


ERRORS: dict[str, Callable[[], BaseException]] = {
    "huge": Huge,
    "nul": lambda: ValueError("a\0b"),
    "surrogate": lambda: ValueError("\ud800"),
    "terminal": lambda: ValueError("\x1b[2J\u202e"),
    "newlines": lambda: ValueError("one\n" * 10_000),
    "raising": Raising,
    "no_text": NoText,
    "sinister": WithSinister,
    "changing": Changing,
    "endless": Endless,
    "group": lambda: BaseExceptionGroup("g", [Huge(), Raising()]),
    "exit": lambda: SystemExit("a\0" * 10_000),
    "interrupt": KeyboardInterrupt,
    "bytes": lambda: OSError(b"\xff", b"\xfe"),
    "key": lambda: KeyError({"a": ["\ud800"] * 10}),
    "no_arguments": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "\ud800"),
}


@APP.task("raise")
def fail(task: Task) -> None:
    """Raise what the payload names."""
    raise ERRORS[task.payload]()


@APP.task("raise async")
async def fail_async(task: Task) -> None:
    """Raise what the payload names, on the loop."""
    raise ERRORS[task.payload]()


@APP.task("answer")
def answer(task: Task) -> Any:
    """Return what no handler may."""
    return {"number": 42, "text": "x" * 10**6, "class": Sinister}[task.payload]


def test_any_exception_of_a_handler_ends_its_task_and_nothing_else(living: Living) -> None:
    kinds = [(name, kind) for kind in ("raise", "raise async") for name in ERRORS]
    kinds += [(name, "answer") for name in ("number", "text", "class")]
    ids = [living.client.enqueue(kind, name, org="acme", max_attempts=1).id for name, kind in kinds]
    for (name, kind), lines in zip(kinds, until_ended(living.stage, ids), strict=True):
        assert [line.status for line in lines] == ["dead"], (kind, name)
        error = lines[0].error
        assert error, (kind, name)
        assert len(error) <= 4_000
        assert "\0" not in error
    living.sing()


@pytest.mark.parametrize("error", ERRORS)
def test_any_exception_can_be_told_by_nack(living: Living, error: str) -> None:
    task = living.client.enqueue("by hand", org="acme", queue="by hand", max_attempts=1).id
    (claim,) = living.client.claim("by hand", wait_s=10)
    assert living.client.nack(claim, ERRORS[error]()) == "dead"
    assert len(living.client.get(task).history[-1].error or "") <= 4_000


@pytest.fixture(autouse=True, scope="module")
def _by_hand(living: Living) -> None:
    with living.stage.db.transaction():
        run(living.stage.db, orgs.set_queue("by hand", actor="test"))

"""What users write handlers with: the registry, the task they are given, what they may answer."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from orchestrator.errors import InvalidInput
from orchestrator.model import NAME_MAX_CHARS, Claim

# Longer is a slip of the unit; the same bound as for durations of the configuration.
SNOOZE_MAX_S = 3650 * 86400.0


@dataclass(frozen=True, slots=True)
class Done:
    """The task is done; returning nothing says the same."""


@dataclass(frozen=True, slots=True)
class Snooze:
    """Give the task back for `delay_s` seconds, without counting the attempt.

    Without a delay it waits for admission again at once, in its old place: so a task yields.
    """

    delay_s: float | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.delay_s is not None and not 0 <= self.delay_s <= SNOOZE_MAX_S:  # nor is nan
            raise InvalidInput(f"Snooze: give delay_s from 0 to {SNOOZE_MAX_S:g} seconds")


@dataclass(frozen=True, slots=True)
class Discard:
    """End the task for good, unsuccessful and without another attempt."""

    reason: str = ""


Outcome = Done | Snooze | Discard


def checked(answer: object) -> Outcome | None:
    """Return what a handler returned if it may return that; raise `InvalidInput`."""
    if answer is None or isinstance(answer, Done | Snooze | Discard):
        return answer
    if inspect.iscoroutine(answer):
        answer.close()
        raise InvalidInput("the handler returned a coroutine: declare it with `async def`")
    kind = type(answer).__qualname__
    raise InvalidInput(f"the handler returned {kind:.80}: return None, Done, Snooze or Discard")


class Task:
    """One claimed task, as its handler sees it.

    A sync handler with a timeout runs in a process of its own. There `cancelled` stays as it is:
    the process is killed instead.
    """

    __slots__ = ("_claim", "cancelled", "stopping", "yielding")

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        #: Whether the task was cancelled, or its lease was lost: what the handler does from here on
        #: counts for nothing. An async handler is cancelled as well; a sync one looks here.
        self.cancelled = False
        #: Whether the worker stops: it waits for a while, and gives back what has not ended.
        self.stopping = False
        #: Whether a critical task of the same org waits for a slot: return `Snooze()` to give it
        #: this one. False again where the critical task found another.
        self.yielding = False

    @property
    def should_yield(self) -> bool:
        """Whether the handler should come to an end soon: look between two steps of the work."""
        return self.yielding or self.stopping or self.cancelled

    @property
    def id(self) -> int:
        """The task's id."""
        return self._claim.id

    @property
    def name(self) -> str:
        """The name its handler is registered under."""
        return self._claim.name or ""

    @property
    def payload(self) -> Any:
        """What was enqueued, decoded from JSON."""
        return self._claim.payload

    @property
    def org(self) -> str:
        """The tenant it belongs to."""
        return self._claim.org

    @property
    def queue(self) -> str:
        """The name of its queue."""
        return self._claim.queue

    @property
    def workload(self) -> str:
        """The class of the org's work it belongs to."""
        return self._claim.workload

    @property
    def priority(self) -> int:
        """Its priority inside its flow, 10 first."""
        return self._claim.priority

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1 on."""
        return self._claim.attempt

    @property
    def max_attempts(self) -> int:
        """After this many failed attempts the task is a dead letter."""
        return self._claim.max_attempts

    @property
    def headers(self) -> Mapping[str, str]:
        """What the producer attached besides the payload."""
        return self._claim.headers

    @property
    def created_at(self) -> datetime | None:
        """When it was enqueued."""
        return self._claim.created_at

    def __repr__(self) -> str:
        return f"<Task {self.id} {self.name!r} attempt {self.attempt}>"


Function = Callable[[Task], Outcome | None] | Callable[[Task], Awaitable[Outcome | None]]
F = TypeVar("F", bound=Function)


@dataclass(frozen=True, slots=True, eq=False)
class Handler:
    """A registered function, and what the worker needs to know about it."""

    name: str
    function: Callable[[Task], Any]
    is_async: bool


class App:
    """A registry of handlers, by the name of the tasks they handle."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """The registered handlers by task name."""
        return self._handlers

    def task(self, name: str) -> Callable[[F], F]:
        """Register the decorated function, sync or async, for tasks of this name.

        The function stays as it is. Raises `InvalidInput` where the name is taken or is none, or
        the function cannot be a handler.
        """
        named: object = name
        if not isinstance(named, str) or not 1 <= len(named) <= NAME_MAX_CHARS:
            raise InvalidInput('give the task a name of 1 to 200 characters: @app.task("resize")')

        def register(function: F) -> F:
            if name in self._handlers:
                raise InvalidInput(f"task {name!r} has a handler already: choose another name")
            self._handlers[name] = Handler(name, function, _is_async(name, function))
            return function

        return register


def reference(function: Callable[..., Any]) -> tuple[str, str] | None:
    """Return (module, qualified name) by which another process can import `function`, if any."""
    module = getattr(function, "__module__", None)
    path = getattr(function, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(path, str):
        return None
    return (module, path) if resolve(sys.modules.get(module), path) is function else None


def resolve(module: object, path: str) -> Any:
    """Return what the dotted `path` names inside `module`, None if there is no such thing."""
    found = module
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def _is_async(name: str, function: object) -> bool:
    if not callable(function):
        raise InvalidInput(f"the handler of {name!r} cannot be called: decorate a function")
    # An object is as async as the method by which it is called.
    kinds = (function, type(function).__call__)
    if any(inspect.isgeneratorfunction(f) or inspect.isasyncgenfunction(f) for f in kinds):
        raise InvalidInput(f"the handler of {name!r} is a generator, which would never run: return")
    return any(inspect.iscoroutinefunction(f) for f in kinds)

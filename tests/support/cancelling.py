"""Coroutines that are cancelled at a certain await."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class Reached:
    """Whether the await was reached."""

    def __init__(self) -> None:
        self.yes = False


@types.coroutine
def cancelled_at(
    await_: int, coroutine: Coroutine[Any, Any, T], reached: Reached
) -> Generator[Any, Any, T]:
    """Run `coroutine`, and cancel it at the await of this number, counted from 0, if it comes so
    far.
    """
    error: BaseException | None = None
    count = 0
    while True:
        try:
            awaited = coroutine.send(None) if error is None else coroutine.throw(error)
        except StopIteration as done:
            value: T = done.value
            return value
        error = None
        if count == await_:
            reached.yes = True
            # As a task does it.
            if isinstance(awaited, asyncio.Future):
                awaited.cancel()
            error = asyncio.CancelledError()
        else:
            try:
                yield awaited
            except BaseException as raised:  # noqa: BLE001  # it belongs to the coroutine
                error = raised
        count += 1

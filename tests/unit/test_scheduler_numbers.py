"""How many histories the laws of the scheduler play: stated here, so that it can be quoted."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from hypothesis import settings

from tests.conftest import NIGHTLY

HERE = Path(__file__).parent
FILES = ("test_scheduler*.py", "test_slots.py", "test_strict.py")


def examples() -> Iterator[tuple[str, int]]:
    """Yield each law of the scheduler, and how many examples it plays."""
    for path in sorted(path for pattern in FILES for path in HERE.glob(pattern)):
        module = import_module(f"tests.unit.{path.stem}")
        for name, test in vars(module).items():
            chosen = getattr(test, "settings", None)
            if getattr(test, "is_hypothesis_test", False):
                chosen = getattr(test, "_hypothesis_internal_use_settings", settings.default)
            if name.lower().startswith("test") and isinstance(chosen, settings):
                yield f"{path.stem}::{name}", chosen.max_examples


def test_the_laws_play_as_many_histories_as_is_claimed() -> None:
    played = dict(examples())
    total = sum(played.values())
    print(f"{len(played)} laws, {total:,} histories")  # noqa: T201 - to be quoted
    assert total >= (20_000 if NIGHTLY else 1_000)

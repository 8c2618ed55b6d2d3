"""What the leader keeps of bumps that Redis did not take."""

from __future__ import annotations

import time

import pytest

from orchestrator.config import RedisSettings
from orchestrator.wakeup import bumper as module
from orchestrator.wakeup.bumper import Bumper
from orchestrator.wakeup.empty import VERDICT_TTL_MAX_S


def test_a_bump_that_is_asked_for_again_is_kept_for_as_long_as_the_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(module, "REST_S", 0.0)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    # Nobody listens at that address, and nobody asks: its thread is not started.
    bumper = Bumper(RedisSettings(url="redis://127.0.0.1:1/0"))
    try:
        bumper.bump("db", 1)
        now = VERDICT_TTL_MAX_S - 1
        bumper.bump("db", 1)
        now = VERDICT_TTL_MAX_S + 1
        untold, bumper._wanted = bumper._wanted, {}
        bumper._keep(untold)
        assert list(bumper._wanted) == list(untold)
        now = 2 * VERDICT_TTL_MAX_S
        untold, bumper._wanted = bumper._wanted, {}
        bumper._keep(untold)
        # By now every verdict that it would have voided has died of age.
        assert bumper._wanted == {}
    finally:
        bumper.stop()

"""Who a secret stands for, and how often strangers may ask."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.server.auth import TRUST_S, Tokens
from orchestrator.server.problems import Problem
from orchestrator.store.tokens import Holder, Scope, digest


def test_secrets_that_were_never_known_are_looked_up_so_many_a_second_only() -> None:
    now = [0.0]
    asked: list[bytes] = []
    good = digest("good")

    async def look_up(key: bytes) -> Holder | None:
        asked.append(key)
        return Holder("one", key, frozenset({Scope.READER}), None) if key == good else None

    async def story() -> None:
        tokens = Tokens(look_up, lambda: now[0], strangers_per_s=5)
        assert (await tokens.principal("Bearer good")).name == "one"
        for number in range(9):
            with pytest.raises(Problem) as refused:
                await tokens.principal(f"Bearer {number}")
            assert refused.value.status_code == 401
        with pytest.raises(Problem) as limited:
            await tokens.principal("Bearer another")
        assert limited.value.status_code == 429
        assert limited.value.headers == {"Retry-After": "1"}
        assert len(asked) == 10
        # Who was known is asked for again when its time is over, whatever strangers do.
        now[0] += TRUST_S + 0.001
        for number in range(100, 110):
            with pytest.raises(Problem):
                await tokens.principal(f"Bearer {number}")
        with pytest.raises(Problem, match="new here"):
            await tokens.principal("Bearer more")
        assert (await tokens.principal("Bearer good")).name == "one"

    asyncio.run(story())

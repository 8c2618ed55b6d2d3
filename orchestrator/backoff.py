"""How long a failed attempt waits before the next one."""

from __future__ import annotations

import random

BACKOFF_MAX_S = 300.0


def backoff_s(attempt: int) -> float:
    """Return the delay after the failed attempt of this number: exponential, with full jitter.

    Full jitter (anything from zero to the bound) spreads the retries of tasks that failed together.
    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return random.uniform(0, min(BACKOFF_MAX_S, 2 ** max(0, attempt - 1)))

"""How hard the stateful tests try: `HYPOTHESIS_PROFILE=nightly` asks for more."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

from tests.conftest import NIGHTLY

# A failing example is shrunk but not explained, which would take as long again.
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
# Starting a leader is an election, on a slow machine too slow for a health check.
_QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)

_QUICK = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    phases=_PHASES,
    suppress_health_check=_QUIET,
    # What gates a change plays the same histories each time; the nightly profile explores.
    derandomize=True,
    # One failure at a time: each is a history to shrink.
    report_multiple_bugs=False,
)
_NIGHTLY = settings(_QUICK, max_examples=2_000, stateful_step_count=60, derandomize=False)

PROFILE = _NIGHTLY if NIGHTLY else _QUICK
# A law plays whole histories, each on a queue of its own, so one database serves all examples.
LAW = settings(
    PROFILE,
    max_examples=200 if NIGHTLY else 6,
    suppress_health_check=(*_QUIET, HealthCheck.function_scoped_fixture),
)
# Room to shrink a failure, which Hypothesis itself ends after five minutes.
TIMEOUT_S = 6 * 3600 if NIGHTLY else 480

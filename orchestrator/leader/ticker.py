"""The one loop that catches everything: it logs, backs off with jitter, and goes on."""

from __future__ import annotations

import random
from collections.abc import Callable

import structlog

from orchestrator.errors import LeadershipRefused, OrchestratorError

log = structlog.get_logger()

_BACKOFF_MIN_S = 0.1
_BACKOFF_MAX_S = 2.0
# A refusal is a matter of configuration: it is said again now and then, not twice a second.
_REFUSED_S = 5.0


def keep_running(
    name: str,
    work: Callable[[], None],
    *,
    stopping: Callable[[], bool],
    wait: Callable[[float], object],
) -> None:
    """Call `work` until `stopping`; after an error wait (up to 2 s, growing, jittered) and go
    on.
    """
    failures = 0
    while not stopping():
        try:
            work()
            failures = 0
        except LeadershipRefused as error:
            log.error("leader.refused", loop=name, reason=str(error))
            wait(_REFUSED_S)
        except Exception as error:
            failures += 1
            ours = isinstance(error, OrchestratorError)
            log.warning(
                "loop.failed", loop=name, failures=failures, error=str(error), exc_info=not ours
            )
            wait(random.uniform(0.5, 1.0) * min(_BACKOFF_MAX_S, _BACKOFF_MIN_S * 2**failures))

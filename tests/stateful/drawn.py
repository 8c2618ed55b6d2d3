"""What is drawn: who does what in one step of a history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from orchestrator.model import AttemptStatus
from tests.stateful.actors import Order

# A verb of `Actors` and its arguments.
Act = tuple[str, dict[str, Any]]

ORGS = ("ada", "bob", "cyd", "dan")
TIERS: Mapping[str, tuple[int, int | None]] = {
    "enterprise": (10, None),
    "standard": (2, None),
    "free": (1, 50),
}
SHARES = {"api": 8, "etl": 2}
# Divisors of the cost of a task: a charge has no rounding, so the bounds are exact.
WEIGHTS = (1, 2, 5, 10)

_orgs = st.sampled_from(ORGS)
_tiers = st.sampled_from(tuple(TIERS))
_workloads = st.sampled_from(tuple(SHARES))
_weights = st.sampled_from(WEIGHTS)
_caps = st.none() | st.integers(1, 4)
_task = st.integers(0, 20)
# Claims, the newest first; a small list of small numbers, so that one call ends several tasks.
claims = st.lists(st.integers(0, 11), min_size=1, max_size=5, unique=True)
_given_back = st.sampled_from(
    (
        AttemptStatus.FAILED,
        AttemptStatus.RELEASED,
        AttemptStatus.SNOOZED,
    )
)
_finished = st.sampled_from((AttemptStatus.SUCCEEDED, AttemptStatus.DISCARDED, AttemptStatus.DEAD))


_order = st.builds(
    Order,
    org=_orgs,
    workload=_workloads,
    priority=st.sampled_from((5, 1, 10, 6)),
    max_attempts=st.integers(1, 3),
    copies=st.integers(1, 8),
    delayed=st.sampled_from((False, False, False, True)),
    deadline=st.sampled_from((False, False, True)),
    key=st.sampled_from((None, None, None, "k1", "k2")),
    payload=st.sampled_from(("{}", "[]")),
)
orders = st.lists(_order, min_size=1, max_size=4)
# One ordinary task, due at once.
single = st.builds(
    Order,
    org=_orgs,
    workload=_workloads,
    priority=st.sampled_from((5, 1, 10)),
    max_attempts=st.integers(1, 2),
    copies=st.just(1),
    delayed=st.just(False),
    deadline=st.booleans(),
    key=st.none(),
    payload=st.just("{}"),
)
_VERBS: Mapping[str, Mapping[str, st.SearchStrategy[Any]]] = {
    "enqueue": {"orders": orders},
    "claim": {"limit": st.integers(1, 6)},
    "finish": {"which": claims, "status": _finished, "closing": st.booleans()},
    "give_back": {"which": claims, "status": _given_back, "delayed": st.booleans()},
    "extend": {"which": claims},
    "reap": {},
    "cancel": {"which": _task},
    "retry": {"which": _task},
    "look": {"which": _task},
    "end_lease": {"which": st.integers(0, 5)},
    "pass_deadline": {"which": _task},
    "make_due": {"which": claims},
    "set_org": {
        "org": _orgs,
        "tier": _tiers,
        "weight": st.none() | _weights,
        "burst_max": _caps,
    },
    "pause_org": {"org": _orgs},
    "resume_org": {"org": _orgs},
    "set_tier": {"tier": _tiers, "weight": _weights, "burst_max": _caps},
    "set_workload": {"workload": _workloads, "share": _weights},
    "set_queue": {
        "capacity": st.none() | st.integers(1, 8),
        "ready_max": st.integers(1, 8),
        "kappa": st.integers(0, 5),
    },
    "pause_queue": {"paused": st.booleans()},
    "forget_orgs": {},
}
# These wait for a lock that a tick holds from its fence on.
CONFIGURING = (
    *("set_org", "pause_org", "resume_org", "set_tier", "set_workload", "set_queue"),
    *("pause_queue", "forget_orgs"),
)
# This may wait for a row that a tick has moved and not committed yet.
MOVING = ("cancel",)


def acts(*verbs: str) -> st.SearchStrategy[Act]:
    """Draw one of `verbs` with its arguments."""
    return st.one_of(
        *(st.tuples(st.just(verb), st.fixed_dictionaries(_VERBS[verb])) for verb in verbs)
    )


# What may happen while the leader is in the middle of something.
meanwhile = acts(
    *("enqueue", "claim", "finish", "give_back", "cancel", "retry"),
    *("set_org", "pause_org", "resume_org", "set_queue", "pause_queue"),
)

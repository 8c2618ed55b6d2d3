"""What each kind of database role may do: the one place that says it.

Found by running every verb as its role, and held to that by tests: a table, sequence or function
that is not listed here breaks them. `docs/privileges.md` is made from this module
(`scripts/privileges.py`).

A producer enqueues and reads nothing of what others sent. A worker claims and ends tasks. A reader
looks. Who leads, serves the API or operates is an `orchestrator`: configuration, cancelling and
retrying are its verbs. The owner migrates and grants.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple


class DatabaseRole(StrEnum):
    """The kinds of database roles; all but the owner can be combined."""

    PRODUCER = "producer"
    WORKER = "worker"
    READER = "reader"
    ORCHESTRATOR = "orchestrator"
    OWNER = "owner"


class Grant(NamedTuple):
    """One privilege on one object; no columns = on all of it."""

    object: str
    privilege: str
    columns: tuple[str, ...] = ()


# Who runs SQL of the queues, and so needs its plans pinned for whatever stands between. Not the
# producer: that is the application itself, whose own queries would suffer.
PINNED = (DatabaseRole.WORKER, DatabaseRole.ORCHESTRATOR)

# A line for each table: for each role its privileges, columns in brackets. An empty line is the
# owner's alone. Partitions are reached through their parents, and are nobody's but the owner's.
_EVERYTHING = "select insert update delete"
TABLES: Mapping[str, Mapping[str, str]] = {
    # Configuration
    "tier": {
        "producer": "select(name,backlog_max)",
        "reader": "select",
        "orchestrator": "select insert update",
    },
    "workload": {
        "producer": "select(name)",
        "worker": "select",
        "reader": "select",
        "orchestrator": "select insert update",
    },
    "queue": {
        "producer": "select(id,name)",
        "worker": "select",
        "reader": "select",
        "orchestrator": "select insert update",
    },
    "org_config": {
        "producer": "select(org_id,tier,backlog_max)",
        "reader": "select",
        "orchestrator": "select insert update",
    },
    "schedule": {"reader": "select", "orchestrator": _EVERYTHING},
    "shadow_policy": {"reader": "select", "orchestrator": "select insert update"},
    # Tasks
    "task": {
        # Not the payloads: a producer gets back what it stored, an id.
        "producer": "insert select(id,expires_at)",
        "worker": "select",
        "reader": "select",
        # To lock a task takes a column that may be updated; nothing ever updates one.
        "orchestrator": "select insert update(headers)",
    },
    "task_default": {"orchestrator": "select"},
    "task_attempt": {
        "worker": "insert",
        "reader": "select",
        "orchestrator": "select insert update(xid)",
    },
    "task_attempt_default": {},
    "staging_queue": {
        "producer": "insert select(queue,org_id,expires_at)",
        "worker": "insert",
        "reader": "select",
        "orchestrator": _EVERYTHING,
    },
    "scheduled_queue": {
        "producer": "insert",
        "worker": "insert",
        "reader": "select",
        "orchestrator": _EVERYTHING,
    },
    "task_queue": {
        "worker": "select update(claim_id,attempt,claimed_at) delete",
        "reader": "select",
        "orchestrator": _EVERYTHING,
    },
    "lease": {
        "worker": "select insert update(expires_at) delete",
        "reader": "select",
        "orchestrator": _EVERYTHING,
    },
    "idempotency_key": {
        "producer": "insert select",
        "worker": "select delete",
        "reader": "select",
        "orchestrator": "select insert delete",
    },
    # The leader's cut
    "org_state": {"reader": "select", "orchestrator": _EVERYTHING},
    "flow_state": {"reader": "select", "orchestrator": _EVERYTHING},
    "cut_journal": {"reader": "select", "orchestrator": _EVERYTHING},
    "queue_state": {"reader": "select", "orchestrator": "select update"},
    "overrun": {"reader": "select", "orchestrator": _EVERYTHING},
    "orchestrator_lock": {"reader": "select", "orchestrator": "select update"},
    "leadership_log": {"reader": "select", "orchestrator": "select insert delete"},
    "tick_log": {"reader": "select", "orchestrator": "select insert delete"},
    "fairness_window": {"reader": "select", "orchestrator": "select insert delete"},
    "shadow_report": {"reader": "select", "orchestrator": _EVERYTHING},
    # Access
    "api_token": {
        # Not the digests.
        "reader": "select(id,name,scopes,org_id,created_at,expires_at,revoked_at)",
        "orchestrator": "select insert update",
    },
    "audit_log": {"reader": "select", "orchestrator": "select insert delete"},
    "grantee": {},
    "schema_version": dict.fromkeys(("producer", "worker", "reader", "orchestrator"), "select"),
}

# Every sequence of the schema, those of queues to come included, by the default privileges of its
# owner: they hold numbers that are no secret (a floor, whether the leader dozes).
SEQUENCES: Mapping[str, str] = {
    "producer": "select",
    "worker": "select",
    "reader": "select",
    "orchestrator": "select update",
}
TASK_IDS = "task_id"  # the only one that a verb draws from by hand
TASK_ID_SEQUENCE: Mapping[str, str] = {
    "producer": "select usage",
    "orchestrator": "select usage update",
}

FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    "create_partition(bigint, bigint)": ("orchestrator",),
    "lock_partition(bigint)": ("orchestrator",),
    "drop_partition(bigint)": ("orchestrator",),
    # Everybody's: it does no more than its caller may do with the tables.
    "fold_cut(integer, bigint, integer)": ("producer", "worker", "reader", "orchestrator"),
    # Triggers: they fire for whoever may write the table.
    "queue_created()": (),
    "config_changed()": (),
    "org_config_stamp()": (),
    "term_opened()": (),
}

# What an operator may take from everybody else (`--harden`); the owner needs some to migrate.
ADVISORY = {DatabaseRole.ORCHESTRATOR, DatabaseRole.OWNER}
# The server's own role for looking at other roles' sessions: when the leader was last heard of.
SEES_SESSIONS = {DatabaseRole.READER, DatabaseRole.ORCHESTRATOR}


def table_grants(roles: Iterable[str]) -> list[Grant]:
    """Return what these roles together may do with tables."""
    wanted = [(table, text) for role in roles for table, text in _of(role)]
    return sorted({grant for table, text in wanted for grant in _parsed(table, text)})


def sequence_privileges(roles: Iterable[str], sequence: str | None = None) -> set[str]:
    """Return what these roles together may do with a sequence; with any, where none is named."""
    special = TASK_ID_SEQUENCE if sequence == TASK_IDS else {}
    return {word for role in roles for word in special.get(role, SEQUENCES.get(role, "")).split()}


def functions(roles: Iterable[str]) -> list[str]:
    """Return the functions that these roles may execute."""
    chosen = set(roles)
    return [function for function, allowed in FUNCTIONS.items() if chosen.intersection(allowed)]


def _of(role: str) -> Iterator[tuple[str, str]]:
    return ((table, roles[role]) for table, roles in TABLES.items() if role in roles)


def _parsed(table: str, text: str) -> Iterator[Grant]:
    for word in text.split():
        privilege, _, columns = word.rstrip(")").partition("(")
        yield Grant(table, privilege, tuple(columns.split(",")) if columns else ())

"""What `explain` says of a task, and what it says it from, each in one snapshot."""

from __future__ import annotations

from orchestrator.fairness.explanation.facts import Facts
from orchestrator.model import Explanation, Reason, ReasonKind
from orchestrator.store import explain as store
from orchestrator.store.sql import run
from tests.support.stage import Stage


def explain(stage: Stage, task_id: int) -> Explanation:
    with stage.db.transaction():
        explanation: Explanation = run(stage.db, store.explain(task_id))
    return explanation


def facts(stage: Stage, task_id: int) -> Facts:
    with stage.db.transaction():
        found: Facts = run(stage.db, store.facts(task_id))
    return found


def reason_of(explanation: Explanation, kind: ReasonKind) -> Reason:
    (reason,) = [reason for reason in explanation.reasons if reason.kind is kind]
    return reason

"""The operator's verbs: look at tasks, cancel and retry them, configure and pause orgs."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from orchestrator.client.common import Common
from orchestrator.client.specs import optional_text, plain_name, shown, whole
from orchestrator.client.steps import Steps, Work, verb
from orchestrator.errors import InvalidInput
from orchestrator.model import (
    DEFAULT_QUEUE,
    DEFAULT_TIER,
    AttemptStatus,
    CancelOutcome,
    OrgConfig,
    Place,
    TaskInfo,
)
from orchestrator.store import orgs
from orchestrator.store import tasks as store
from orchestrator.store.orgs import UNSET, Unset
from orchestrator.store.sql import Operation
from orchestrator.store.tasks import BEFORE_ALL, TaskLine

ID_MAX = 2**63 - 1
PAGE_MAX = 10_000

E = TypeVar("E", bound=StrEnum)


class Operating(Common):
    """Look and steer."""

    @verb
    def get(self, id: int) -> Steps[TaskInfo]:  # noqa: A002  # the contract's name
        """Return where a task is and its history. Raises `TaskNotFound`."""
        info: TaskInfo = yield Work(operation=store.get(whole("id", id, 1, ID_MAX)))
        return info

    @verb
    def tasks(
        self,
        queue: str = DEFAULT_QUEUE,
        *,
        org: str | None = None,
        name: str | None = None,
        place: Place | str | None = None,
        status: AttemptStatus | str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> Steps[list[TaskLine]]:
        """Return a page of the queue's tasks with ids below `before`, newest first."""
        queue = plain_name("queue", queue)
        org = None if org is None else plain_name("org", org)
        name = None if name is None else plain_name("name", name)
        page = self._page(
            queue,
            org=org,
            name=name,
            place=_member("place", Place, place),
            status=_member("status", AttemptStatus, status),
            before=BEFORE_ALL if before is None else whole("before", before, 0, ID_MAX),
            limit=whole("limit", limit, 1, PAGE_MAX),
        )
        lines: list[TaskLine] = yield Work(operation=page)
        return lines

    @verb
    def cancel(self, id: int, *, reason: str = "cancelled") -> Steps[CancelOutcome]:  # noqa: A002
        """End a task where it waits, or ask its worker to stop; return what was found.

        A worker learns of it when it next extends its lease. Raises `TaskNotFound`.
        """
        why = optional_text("reason", reason)
        operation = store.cancel(whole("id", id, 1, ID_MAX), reason=why or "cancelled")
        outcome: CancelOutcome = yield Work(operation=operation)
        return outcome

    @verb
    def retry(self, id: int) -> Steps[None]:  # noqa: A002  # the contract's name
        """Stage an ended task again, with its attempts counted anew.

        Raises `TaskNotFound`, `TaskUnfinished`, and `IdempotencyConflict` where another task holds
        its key by now.
        """
        yield Work(operation=store.retry(whole("id", id, 1, ID_MAX)), atomic=True)

    @verb
    def set_org(
        self,
        org: str,
        *,
        tier: str | Unset | None = UNSET,
        weight: int | Unset | None = UNSET,
        burst_max: int | Unset | None = UNSET,
        backlog_max: int | Unset | None = UNSET,
    ) -> Steps[OrgConfig]:
        """Configure an org; None clears a value, what is not given stays. Raises `UnknownTier`."""
        if isinstance(tier, Unset):
            kept = None
        else:
            kept = DEFAULT_TIER if tier is None else plain_name("tier", tier)
        operation = orgs.set_org(
            plain_name("org", org),
            tier=kept,
            weight=weight,
            burst_max=burst_max,
            backlog_max=backlog_max,
            actor=self.name,
        )
        config: OrgConfig = yield Work(operation=operation, atomic=True)
        return config

    @verb
    def pause_org(self, org: str, reason: str | None = None) -> Steps[OrgConfig]:
        """Admit nothing more of an org until it is resumed; what is admitted runs on."""
        why = optional_text("reason", reason)
        operation = orgs.pause_org(plain_name("org", org), why, actor=self.name)
        config: OrgConfig = yield Work(operation=operation, atomic=True)
        return config

    @verb
    def resume_org(self, org: str) -> Steps[OrgConfig]:
        """Admit an org again. Raises `UnknownOrg` where it was never configured."""
        operation = orgs.resume_org(plain_name("org", org), actor=self.name)
        config: OrgConfig = yield Work(operation=operation, atomic=True)
        return config

    def _page(
        self,
        queue: str,
        *,
        org: str | None,
        name: str | None,
        place: Place | None,
        status: AttemptStatus | None,
        before: int,
        limit: int,
    ) -> Operation:
        queue_id = yield from self._queue_id(queue)
        return (
            yield from store.list_page(
                queue_id,
                org=org,
                name=name,
                place=place,
                status=status,
                before=before,
                limit=limit,
            )
        )


def _member(kind: str, values: type[E], value: str | None) -> E | None:
    try:
        return None if value is None else values(value)
    except ValueError as error:
        known = ", ".join(values)
        raise InvalidInput(f"{kind} is one of {known}, not {shown(value)}") from error

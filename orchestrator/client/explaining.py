"""The verb that tells why a task waits."""

from __future__ import annotations

from orchestrator.client.common import Common
from orchestrator.client.operating import ID_MAX
from orchestrator.client.specs import whole
from orchestrator.client.steps import Steps, Work, verb
from orchestrator.model import Explanation
from orchestrator.store import explain as store


class Explaining(Common):
    """Ask why."""

    @verb
    def explain(self, id: int) -> Steps[Explanation]:  # noqa: A002  # the contract's name
        """Return why a task waits, in the order in which the reasons bind, and when it may start.

        Reads one snapshot and changes nothing. Raises `TaskNotFound`.
        """
        operation = store.explain(whole("id", id, 1, ID_MAX))
        explanation: Explanation = yield Work(operation=operation, atomic=True)
        return explanation

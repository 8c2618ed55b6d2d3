"""The shadow policy of a queue, as its leader carries it: begun by configuration, fed by the ticks.

A shadow is an onlooker. It is told what the live scheduler was told, after that; it answers nothing
that a tick asks; and whatever goes wrong in it goes wrong in it alone: it is given up, which the
log and its report say, until the configuration changes. A takeover begins it anew, from the state
that the new term loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import structlog
from psycopg import Connection

from orchestrator.fairness import Limits, Plan, Refreshed, Scheduler, Settled
from orchestrator.fairness.shadowing.comparison import ShadowReport
from orchestrator.fairness.shadowing.shadow import Candidate, Offer, Shadow
from orchestrator.fairness.signal import FairnessWindow
from orchestrator.fairness.simulation.policy import OrgSetting, Terms
from orchestrator.leader.configuration import Configuration
from orchestrator.leader.cut import Cut
from orchestrator.model import DEFAULT_TIER, CostMode, FairnessReport, Tier, Workload
from orchestrator.policyfile import Draft, parse_override
from orchestrator.store import orgs
from orchestrator.store import shadow as store
from orchestrator.store.admission import Probe
from orchestrator.store.shadow import ShadowPolicy
from orchestrator.store.sql import Operation, run

log = structlog.get_logger()

T = TypeVar("T")


class Live(NamedTuple):
    """The live configuration that a candidate is laid over."""

    tiers: Sequence[Tier]
    workloads: Sequence[Workload]
    setting: Callable[[str], OrgSetting]


class Proposal:
    """A policy as it was set, and what it comes to beside the live configuration."""

    def __init__(self, policy: ShadowPolicy, cut: Cut, live: Live) -> None:
        overrides = [parse_override(text) for text in policy.settings]
        named = {org: live.setting(org) for org in store.org_names(overrides)}
        self.draft: Draft = store.proposed(cut.queue, live.tiers, live.workloads, named, overrides)
        self._setting = live.setting

    @property
    def candidate(self) -> Candidate:
        """Return what it says of the queue as a whole."""
        policy = self.draft.policy
        limits = Limits(policy.capacity, policy.express_reserve)
        order, cost_mode = self.draft.order, self.draft.cost_mode
        return Candidate(order, cost_mode, limits, policy.headroom, policy.workloads)

    def terms(self, org: str) -> Terms:
        """Return what it says of `org`."""
        policy = self.draft.policy
        setting = policy.orgs.get(org) or self._setting(org)
        if setting.tier not in policy.tiers:
            setting = setting._replace(tier=DEFAULT_TIER)
        return policy.terms(setting)


class Shadowing:
    """The shadow of one term, if there is one; may be told anything at any time."""

    def __init__(self, cut: Cut) -> None:
        self._cut = cut
        self._policy: ShadowPolicy | None = None
        self._proposal: Proposal | None = None
        self._shadow: Shadow | None = None
        self._failure: str | None = None
        self._began_at = 0.0
        self._reported_rounds = 0

    @property
    def running(self) -> bool:
        """Tell whether a candidate is compared now."""
        return self._shadow is not None

    # Configuration ------------------------------------------------------------------------------

    def propose(self, policy: ShadowPolicy | None, live: Live) -> None:
        """Compare `policy` from now on, or go on with it beside a changed live configuration.

        Begins anew where another policy was set, or where it now orders in another way.
        """
        before, self._policy, self._failure = self._policy, policy, None
        if self._shadow is None:
            self._began_at = time.monotonic()
        if policy is None:
            self._shadow = self._proposal = None
        else:
            self._guarded(lambda: self._propose(policy, live, anew=policy != before))

    def _propose(self, policy: ShadowPolicy, live: Live, *, anew: bool) -> None:
        before, self._proposal = self._proposal, Proposal(policy, self._cut, live)
        anew = anew or before is None or before.draft.order is not self._proposal.draft.order
        if self._shadow is None or anew:
            self._begin(self._proposal)
        else:
            self._shadow.configure(self._proposal.candidate, self._terms(self._proposal))

    def restart(self) -> None:
        """Begin anew from the live state, which was repaired."""
        proposal = self._proposal
        if proposal is not None:
            self._tell(lambda _: self._begin(proposal))

    def introduce(self, org: str) -> None:
        """Note an org that was seen for the first time."""
        proposal = self._proposal
        if proposal is not None:
            self._tell(lambda shadow: shadow.introduce(org, proposal.terms(org)))

    def _begin(self, proposal: Proposal) -> None:
        self._began_at, self._reported_rounds = time.monotonic(), 0
        scheduler, terms = self._cut.scheduler, self._terms(proposal)
        self._shadow = Shadow(scheduler, proposal.candidate, terms, self._began_at)
        log.info("shadow.begun", queue=self._cut.queue.name)

    def _terms(self, proposal: Proposal) -> Iterator[tuple[str, Terms]]:
        for org in self._cut.scheduler.orgs:
            yield org, proposal.terms(org)

    # The feed -----------------------------------------------------------------------------------

    def begin_round(self) -> None:
        """Let the time since the last round pass; first of all in a tick."""
        self._tell(lambda shadow: shadow.begin_round(time.monotonic()))

    def settle(self, ended: Settled, largest_us: int) -> None:
        """Note live attempts that ended."""
        # Said of each flow that settles: where nobody listens, nothing is made of it.
        if self.running:
            self._tell(lambda shadow: shadow.settle(ended, largest_us))

    def refresh(self, running: Refreshed) -> None:
        """Note a live attempt that outgrew its charge."""
        self._tell(lambda shadow: shadow.refresh(running))

    def wake(self) -> None:
        """Wake as the live scheduler did."""
        self._tell(Shadow.wake)

    def arrive(self, org: str, workload: str, tasks: int) -> None:
        """Note tasks that were staged."""
        self._tell(lambda shadow: shadow.arrive(org, workload, tasks))

    def expect_critical(self, org: str, workload: str, more: int) -> None:
        """Note by how many more critical tasks a flow holds than was known."""
        self._tell(lambda shadow: shadow.expect_critical(org, workload, more))

    def correct(self, plan: Plan) -> None:
        """Note that `plan` was made, after what was learnt of the backlogs for it."""
        self._tell(lambda shadow: shadow.correct(self._cut.scheduler, plan))

    def admit(self, plan: Plan, offer: Offer) -> None:
        """Note that `plan` was committed, and decide the same round."""
        self._tell(lambda shadow: shadow.admit(self._cut.scheduler, plan, offer))

    def close_round(self, offer: Offer) -> None:
        """End a round; last of all in a tick."""
        self._tell(lambda shadow: shadow.look(self._cut.scheduler, offer))
        self._tell(Shadow.close_round)

    # The report ---------------------------------------------------------------------------------

    def report(self, live: FairnessReport | None, window_s: float) -> Operation | None:
        """Return what writes the comparison down; None where there is nothing new to say."""
        report = self._tell(lambda shadow: self._news(shadow, live, window_s))
        policy, failure = self._policy, self._failure
        if policy is None:
            return None
        elapsed_s = time.monotonic() - self._began_at
        queue, self._failure = self._cut.queue.id, None
        if failure is not None:
            return store.record(queue, policy.set_at, elapsed_s=elapsed_s, failure=failure)
        if report is None:
            return None
        return store.record(queue, policy.set_at, elapsed_s=elapsed_s, report=report)

    def _news(
        self, shadow: Shadow, live: FairnessReport | None, window_s: float
    ) -> ShadowReport | None:
        if shadow.comparison.rounds == self._reported_rounds:
            return None
        self._reported_rounds = shadow.comparison.rounds
        return shadow.report(live, window_s, time.monotonic())

    def _tell(self, hear: Callable[[Shadow], T]) -> T | None:
        """Let the shadow, if there is one, hear of something."""
        shadow = self._shadow
        return None if shadow is None else self._guarded(lambda: hear(shadow))

    def _guarded(self, act: Callable[[], T]) -> T | None:
        """Do something with the shadow, and give it up if that fails. No statement is run here."""
        try:
            return act()
        except Exception as error:
            self._shadow = None
            self._failure = f"{type(error).__name__}: {error}"
            log.exception("shadow.failed", queue=self._cut.queue.name)
            return None


class WatchedWindow(FairnessWindow):
    """The fairness signal; what it is told of attempts the shadow is told too."""

    def __init__(self, scheduler: Scheduler, shadow: Shadowing) -> None:
        super().__init__(scheduler)
        self._shadow = shadow

    def settle(self, ended: Settled, largest_us: int, cost_mode: CostMode) -> None:
        """Note attempts that ended."""
        super().settle(ended, largest_us, cost_mode)
        self._shadow.settle(ended, largest_us)

    def refresh(self, running: Refreshed) -> None:
        """Note an attempt that outgrew its charge."""
        super().refresh(running)
        self._shadow.refresh(running)


class ShadowedConfiguration(Configuration):
    """The live configuration, and with each change of it the candidate's."""

    def __init__(self, cut: Cut, shadow: Shadowing) -> None:
        super().__init__(cut)
        self._shadow = shadow

    def reload(self, connection: Connection[Any], probe: Probe) -> None:
        """Apply what changed, then tell the shadow of it."""
        super().reload(connection, probe)
        policy: ShadowPolicy | None = run(connection, store.policy(self._cut.queue.id))
        workloads = run(connection, orgs.workloads()) if policy else ()
        self._shadow.propose(policy, Live(list(self._tiers.values()), workloads, self._setting))

    def introduce(self, org: str) -> None:
        """Give an org that is seen for the first time its tier, weight and cap."""
        if org not in self._cut.scheduler.orgs:
            super().introduce(org)
            self._shadow.introduce(org)

    def _setting(self, org: str) -> OrgSetting:
        row = self._orgs.get(org)
        return OrgSetting(*row) if row else OrgSetting()

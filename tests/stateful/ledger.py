"""The law of fair admission, kept beside the leader: who may be admitted next, and at what price.

The ledger never reads a tag from the tables. It is told what a leader was told (which tasks wait,
which slots are held, what operators decided), judges each admission in its order, and keeps the
account. A crash does not exist for it: what was not committed did not happen. So whatever a leader
forgets at a takeover, or carries on with after it was deposed, shows as a broken law.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations
from typing import NamedTuple

from tests.stateful.reading import Reading

Flow = tuple[str, str]
# What a task costs at weight 1.
UNIT = 1_000_000 * 2**10


class Terms(NamedTuple):
    """What operators decided of an org."""

    weight: int
    burst_max: int | None
    paused: bool


# Where a task stands in its flow: (minus its priority, its id).
Rank = tuple[int, int]


class Admission(NamedTuple):
    """One admitted task, as its row tells."""

    seq: int
    key: int
    org: str
    workload: str
    rank: Rank


@dataclass
class Told:
    """What the leader was told: held slots, waiting tasks of each flow in order, and the config."""

    held: Counter[str]
    waiting: dict[Flow, list[Rank]]
    terms: Mapping[str, Terms]
    shares: Mapping[str, int]


@dataclass
class Account:
    """One org: tag, virtual time of its flows, and their tags."""

    tag: int = 0
    virtual_time: int = 0
    flows: Counter[str] = field(default_factory=Counter)


class Spread:
    """How far pairs drifted apart in normalised service, while both could be served."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, str], tuple[Fraction, Fraction, Fraction]] = {}
        # Their last charge was at another weight, so until the next one the bound is another.
        self._reweighed: set[str] = set()

    def keep(self, names: Iterable[str]) -> None:
        """End the intervals of all pairs but those of `names`, and begin those that are new."""
        pairs = list(combinations(sorted(set(names) - self._reweighed), 2))
        start = (Fraction(0), Fraction(0), Fraction(0))
        self._pairs = {pair: self._pairs.get(pair, start) for pair in pairs}

    def reweigh(self, names: Iterable[str]) -> None:
        """End the intervals of every pair with one of `names`: its weight changed."""
        self._reweighed |= set(names)

    def serve(self, name: str, weights: Mapping[str, int]) -> None:
        """Note one admission of `name`; no pair may drift apart by more than 1/w_f + 1/w_g."""
        self._reweighed.discard(name)
        for pair, (before, low, high) in self._pairs.items():
            if name in pair:
                gap = before + Fraction(1 if name == pair[0] else -1, weights[name])
                drift = max(high, gap) - min(low, gap)
                bound = Fraction(1, weights[pair[0]]) + Fraction(1, weights[pair[1]])
                assert drift <= bound, f"{pair} drifted {drift} apart, bound {bound}"
                self._pairs[pair] = gap, min(low, gap), max(high, gap)


class Ledger:
    """Tags, virtual time, and the watch over shares and newcomers, of one queue."""

    def __init__(self) -> None:
        self.virtual_time = 0
        # Whether the last round left anybody waiting who could run; and both as they were committed
        # last, which is what a new leader goes on from.
        self.contended = False
        self._committed = (0, False)
        self.admit_seq = 0
        self.kappa = 0
        self.accounts: dict[str, Account] = {}
        self._terms: dict[str, Terms] = {}
        self._shares: dict[str, int] = {}
        self._spread = Spread()
        self._inner: dict[str, Spread] = {}
        self._running: set[str] = set()
        # Newcomers, and how often each other org went before them.
        self._newcomers: dict[str, Counter[str]] = {}

    def account(self, org: str) -> Account:
        """Return the account of `org`, a new one if it has none."""
        return self.accounts.setdefault(org, Account())

    def look(self, told: Told, *, contended: bool) -> None:
        """Take note of a round in which nothing was admitted."""
        self._forgive(told)
        self._close(told, contended)

    def commit(self, told: Told, *, contended: bool) -> None:
        """Take note that the admissions were committed; `told` is what they left."""
        self._close(told, contended)
        self._committed = self.virtual_time, self.contended

    def _close(self, told: Told, contended: bool) -> None:
        # A leader may believe that somebody waits whose tasks were cancelled, never the reverse.
        assert contended or not self.runnable(told), "somebody was left waiting unnoticed"
        self.contended = contended

    def take_over(self) -> None:
        """Go on from what was committed: a new leader remembers nothing else."""
        self.virtual_time, self.contended = self._committed

    def _forgive(self, told: Told) -> None:
        """Lift the virtual time to those that run, if the last round left nobody waiting."""
        if self.contended:
            return
        tags = [self.account(org).tag for org, held in told.held.items() if held]
        self.virtual_time = max([self.virtual_time, *tags])
        # Nobody waited in between: every interval of waiting together is over.
        self._spread.keep(())

    def begin(self, told: Told) -> None:
        """Take note of what a leader was told before it plans."""
        self._forgive(told)
        self._spread.reweigh(
            org for org, terms in told.terms.items() if terms.weight != self._weight(org, terms)
        )
        for inner in self._inner.values():
            inner.reweigh(w for w, share in told.shares.items() if share != self._shares.get(w))
        self._terms, self._shares = dict(told.terms), dict(told.shares)
        running = {org for org in told.terms if self._may_run(org, told)}
        for org in running:
            self._wake(org, told, fresh=org not in self._running)
        self._newcomers = {o: seen for o, seen in self._newcomers.items() if o in running}
        self._running = running

    def _weight(self, org: str, otherwise: Terms) -> int:
        return self._terms.get(org, otherwise).weight

    def _wake(self, org: str, told: Told, *, fresh: bool) -> None:
        account = self.account(org)
        if fresh and account.tag <= self.virtual_time:
            self._newcomers[org] = Counter()
        account.tag = max(account.tag, self.virtual_time)
        for workload in _waiting(org, told):
            account.flows[workload] = max(account.flows[workload], account.virtual_time)

    @staticmethod
    def _may_run(org: str, told: Told) -> bool:
        _, burst_max, paused = told.terms[org]
        below = burst_max is None or told.held[org] < burst_max
        return below and not paused and bool(_waiting(org, told))

    def runnable(self, told: Told) -> set[str]:
        """Return the orgs that a free slot could go to."""
        return {org for org in told.terms if self._may_run(org, told)}

    def admit(self, admission: Admission, told: Told) -> None:
        """Judge one admission, and take it off what was told."""
        org, workload = admission.org, admission.workload
        running = self.runnable(told)
        assert org in running, f"{org} was admitted: over its cap, paused, or without work"
        first = min(self.account(name).tag for name in running)
        account = self.account(org)
        assert account.tag == first, f"{org} was admitted at tag {account.tag}, {first} waits"
        flows = _waiting(org, told)
        assert workload in flows, f"flow {(org, workload)} was admitted without work"
        inner = min(account.flows[name] for name in flows)
        assert account.flows[workload] == inner, f"{workload} of {org} went before its turn"
        self._watch(org, workload, running, flows)
        self._charge(account, org, workload)
        told.held[org] += 1
        _take(told.waiting[org, workload], admission.rank)

    def _watch(self, org: str, workload: str, running: set[str], flows: set[str]) -> None:
        self._spread.keep(running)
        self._spread.serve(org, {name: terms.weight for name, terms in self._terms.items()})
        inner = self._inner.setdefault(org, Spread())
        inner.keep(flows)
        inner.serve(workload, self._shares)
        self._newcomers.pop(org, None)
        for newcomer, before in self._newcomers.items():
            before[org] += 1
            assert before[org] <= 1, f"{org} went twice before the newcomer {newcomer}"

    def _charge(self, account: Account, org: str, workload: str) -> None:
        self.virtual_time = max(self.virtual_time, account.tag)
        account.virtual_time = max(account.virtual_time, account.flows[workload])
        account.tag += UNIT // self._terms[org].weight
        account.flows[workload] += UNIT // self._shares[workload]

    def agree(self, reading: Reading) -> None:
        """Check what the leader persisted against the account; call after each commit of a tick.

        A tag below the virtual time counts as the virtual time: it is lifted at the next wake.
        """
        assert reading.virtual_time == self.virtual_time, "virtual time differs"
        for org, (tag, inner, _) in reading.orgs.items():
            account = self.account(org)
            assert max(tag, self.virtual_time) == max(account.tag, self.virtual_time), (
                f"{org}: {tag} in the tables, {account.tag} by the account, V {self.virtual_time}"
            )
            assert inner == account.virtual_time, org
        for (org, workload), tag in reading.flows.items():
            account = self.account(org)
            floor = account.virtual_time
            assert max(tag, floor) == max(account.flows[workload], floor), (org, workload)

    def shift(self, by: int) -> None:
        """Move every tag of the orgs: what renormalising does."""
        self.virtual_time += by
        self._committed = self._committed[0] + by, self._committed[1]
        for account in self.accounts.values():
            account.tag += by

    def renormalise(self) -> None:
        """Take each virtual time off the tags that are compared with it."""
        self.shift(-self._committed[0])
        for account in self.accounts.values():
            for workload in account.flows:
                account.flows[workload] -= account.virtual_time
            account.virtual_time = 0

    def restart(self) -> None:
        """Forget debts and shares: what a rebuild from the tables does."""
        self.accounts.clear()
        self._spread, self._inner, self._newcomers = Spread(), {}, {}


def _waiting(org: str, told: Told) -> set[str]:
    return {workload for (o, workload), tasks in told.waiting.items() if o == org and tasks}


def _take(waiting: list[Rank], rank: Rank) -> None:
    """Take a task off its flow, the first in line; one not told about yet may stand before it."""
    assert rank <= waiting[0], f"{rank} was admitted, {waiting[0]} stands before it"
    waiting.pop(0)

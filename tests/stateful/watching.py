"""What a leader is told, noted at the statements that tell it; and others who act in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.store import admission, cut
from orchestrator.store.lean import TEXTS as TICKS
from tests.stateful.drawn import CONFIGURING, MOVING, ORGS, Act
from tests.stateful.ledger import Flow, Rank, Terms, Told
from tests.stateful.wire import Hook, Leader
from tests.stateful.world import World

_ATTEMPT_FEED, _STAGING_FEED, FENCE, _COMMIT = (
    admission.SQL[name] for name in ("attempt_feed", "staging_feed", "fence", "commit")
)
LOAD = cut.SQL["load_queue"]


class Watch:
    """Takes down what the world is like as a tick looks at it, statement by statement."""

    def __init__(self, world: World, before_feeds: Callable[[], None] = lambda: None) -> None:
        self._world = world
        self._before_feeds = before_feeds
        self._held: Counter[str] = Counter()
        self._waiting: dict[Flow, list[Rank]] = {}
        self._terms: dict[str, Terms] = {}
        self._shares: Mapping[str, int] = {}
        # Whether there was a round at all: a step that finds nothing to tick for is none.
        self.looked = False

    def before(self, statement: bytes) -> None:
        """Note what `statement` is about to read."""
        if statement == _ATTEMPT_FEED:
            self._before_feeds()
            self.looked = True
            self._held = self._world.held()
        elif statement == _STAGING_FEED:
            self._waiting = self._world.waiting()
        elif statement == FENCE:
            self._terms = {org: self._world.config.terms(org) for org in ORGS}
            self._shares = dict(self._world.config.shares)
        elif statement in TICKS:
            still = self._world.waiting()
            self._waiting = {
                flow: [rank for rank in ranks if rank in still.get(flow, [])]
                for flow, ranks in self._waiting.items()
            }

    @property
    def told(self) -> Told | None:
        """Return what the tick decides by; None where it never took the fence."""
        if not self._terms:
            return None
        return Told(self._held, self._waiting, self._terms, self._shares)


class Meeting(Watch):
    """Somebody else acts before the n-th statement, or at the first one after that lets them."""

    def __init__(
        self,
        world: World,
        do: Callable[[Act], None],
        act: Act | None,
        at: int,
        since: bytes | None = None,
    ) -> None:
        super().__init__(world)
        self._do = do
        self._act = act
        self._ahead = at
        self._since = since
        self._fenced = self._moved = self._committed = False

    def before(self, statement: bytes) -> None:
        if self._since in (None, statement):
            self._since = None
            if self._ahead <= 0:
                self._meet()
            self._ahead -= 1
        super().before(statement)
        self._fenced |= statement == FENCE
        self._moved |= statement in TICKS
        self._committed |= statement == _COMMIT

    def _meet(self) -> None:
        if self._act is None or self._committed:
            return
        verb, _ = self._act
        blocked = (verb in CONFIGURING and self._fenced) or (verb in MOVING and self._moved)
        if not blocked:
            act, self._act = self._act, None
            self._do(act)

    def close(self) -> None:
        """Let them act now who did not come to it."""
        if self._act is not None:
            self._do(self._act)


class Answering(Meeting):
    """An answer to a hint: the leader knows of one task more, and believes the rest unchanged."""

    def __init__(
        self,
        world: World,
        do: Callable[[Act], None],
        act: Act | None,
        at: int,
        *,
        held: Counter[str],
        flow: Flow,
    ) -> None:
        super().__init__(world, do, act, at)
        self._held = held
        self._flow = flow

    def before(self, statement: bytes) -> None:
        super().before(statement)
        if statement in TICKS:
            # One of these, and no feed has told of any.
            self._waiting = {self._flow: self._world.waiting().get(self._flow, [])[-1:]}


def cutting(leader: Leader, at: int, *, sent: bool, also: Hook = lambda _: None) -> dict[str, Any]:
    """Return the hooks that cut the leader's session before its statement `at`, or after it."""
    ahead = at

    def before(statement: bytes) -> None:
        nonlocal ahead
        also(statement)
        ahead -= 1
        if ahead < 0 and not sent:
            leader.wire.cut()

    def after(statement: bytes) -> None:
        del statement
        if ahead < 0:
            leader.wire.cut()

    return {"before": before, "after": after}

"""The statement of a tick without the parts that have nothing to do in this one.

Of what a tick for one task costs the server, most is to set up the plan, node by node, whether
there will be a row for it or not. Few ticks settle an attempt that was charged for running long;
the others are spared its nodes. And where one task is admitted, its head is looked up without a
loop over flows.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.store.admission import SQL, Wanted
from orchestrator.store.parts import Parted
from orchestrator.store.sql import Call

TICK = Parted(SQL, "tick", ("tasks",), ("tasks", "overran"), ("task",))
#: All that may be sent as a tick's statement.
TEXTS = frozenset(TICK.texts().values())


def lean(tick: Call, wanted: Sequence[Wanted], overran: Sequence[int]) -> Call:
    """Return `tick`, the statement that admits what is `wanted` and forgets `overran`, without what
    it has nothing to do for.
    """
    return TICK.call(_parts(wanted, overran), **tick.params)


def _parts(wanted: Sequence[Wanted], overran: Sequence[int]) -> tuple[str, ...]:
    """Return the parts that are kept."""
    if overran:
        # Rare, and each text has to be planned.
        return ("tasks", "overran")
    return ("task",) if len(wanted) == 1 and len(wanted[0].bases) == 1 else ("tasks",)

"""The statement of a tick without the parts that have nothing to do in this one.

Of what a tick for one task costs the server, most is to set up the plan, node by node, whether
there will be a row for it or not. Few ticks meet an org or a flow for the first time, or settle an
attempt that was charged for running long; the others are spared these nodes. And where one task is
admitted, its head is looked up without a loop over flows; where one org with one flow is saved, its
rows without a loop over orgs.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.store.admission import SQL, Portion, Wanted
from orchestrator.store.parts import Parted
from orchestrator.store.sql import Call

TICK = Parted(
    SQL,
    "tick",
    ("tasks", "orgs"),
    ("tasks", "orgs", "new"),
    ("tasks", "orgs", "overran"),
    ("tasks", "orgs", "new", "overran"),
    ("task", "orgs"),
    ("task", "org"),
)
#: All that may be sent as a tick's statement.
TEXTS = frozenset(TICK.texts().values())


def lean(tick: Call, wanted: Sequence[Wanted], portion: Portion, overran: Sequence[int]) -> Call:
    """Return `tick`, the statement that admits what is `wanted`, saves `portion` and forgets
    `overran`, without what it has nothing to do for.
    """
    return TICK.call(_parts(wanted, portion, overran), **tick.params)


def _parts(wanted: Sequence[Wanted], portion: Portion, overran: Sequence[int]) -> tuple[str, ...]:
    """Return the parts that are kept."""
    new = None in portion.org_places or None in portion.flow_places
    if new or overran or len(wanted) != 1 or len(wanted[0].bases) != 1:
        # Rare, or so much that setting up is the least of it; and each text has to be planned.
        return ("tasks", "orgs", *(["new"] if new else []), *(["overran"] if overran else []))
    lone = len(portion.orgs) == len(portion.flow_orgs) == 1
    return ("task", "org" if lone else "orgs")

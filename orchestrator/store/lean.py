"""The statement of a tick without the parts that have nothing to do in this one.

Of what a tick for one task costs the server, most is to set up the plan, node by node, whether
there will be a row for it or not. Few ticks meet an org or a flow for the first time, or settle an
attempt that was charged for running long; the others are spared these nodes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from itertools import product

from orchestrator.store.admission import SQL, Portion
from orchestrator.store.sql import Call


def lean(tick: Call, portion: Portion, overran: Sequence[int]) -> Call:
    """Return `tick`, the statement that saves `portion` and forgets `overran`, without what it has
    nothing to do for.
    """
    new = None in portion.org_places or None in portion.flow_places
    return tick._replace(statement=_text(new, bool(overran)))


@cache
def _text(new: bool, overran: bool) -> bytes:
    text = SQL["tick"]
    for part, kept in ((b"new", new), (b"overran", overran)):
        if not kept:
            text = re.sub(rb"-- part %s:\n.*?-- end part\n" % part, b"", text, flags=re.DOTALL)
    return text


#: All that may be sent as a tick's statement.
TEXTS = frozenset(_text(*kept) for kept in product((True, False), repeat=2))

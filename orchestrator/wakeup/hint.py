"""The payload of a notification that one task was staged: its flow, and its place in that flow.

The statements that enqueue write it (`store/staging.sql`), with the flow as a number, the hash that
the feed of staged work tells of each flow: whoever may connect may listen, and the names of orgs
are not for everybody. Anybody may notify of anything, too, so nothing that it says is believed; a
payload that reads otherwise says only that something was staged.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_HINT = re.compile(r"(-?[0-9]{1,19}) (-?[0-9]{1,2}) ([0-9]{1,18})")


class Hint(NamedTuple):
    """The flow of a task that was staged, its priority with the sign changed, and its id."""

    flow: int
    neg_priority: int
    task_id: int


def hint_of(payloads: list[str]) -> Hint | None:
    """Return what notifications tell of a single task; None where they tell of more, or less."""
    if len(payloads) != 1:
        return None
    said = _HINT.fullmatch(payloads[0])
    return Hint(*map(int, said.groups())) if said else None

"""Weighted water-filling: the share each org is due when some want less than their weight gives.

The reference that shares are compared with: capacity goes by weight, what an org does not want goes
to the others by weight, until all is given away or nobody wants more (max-min fairness; Bertsekas
and Gallager, Data Networks, section 6.5).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

Org = TypeVar("Org", bound=Hashable)


def fair_shares(
    capacity: float, demands: Mapping[Org, float], weights: Mapping[Org, float]
) -> dict[Org, float]:
    """Return what each org of `demands` is due of `capacity`, in the same unit as both."""
    due = dict.fromkeys(demands, 0.0)
    # Who wants least for its weight is sated first: one walk in that order, O(orgs log orgs).
    hungry = [org for org, demand in demands.items() if demand > 0]
    hungry.sort(key=lambda org: demands[org] / weights[org])
    total = sum(weights[org] for org in hungry)
    left = capacity
    for place, org in enumerate(hungry):
        wanted = demands[org]
        if wanted * total > left * weights[org]:
            for rest in hungry[place:]:
                due[rest] = left * weights[rest] / total
            return due
        due[org] = wanted
        left -= wanted
        total -= weights[org]
    return due

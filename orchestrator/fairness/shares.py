"""Weighted water-filling: the share each org is due when some want less than their weight gives.

The reference that shares are compared with: capacity goes by weight, what an org does not want goes
to the others by weight, until all is given away or nobody wants more (max-min fairness; Bertsekas
and Gallager, Data Networks, section 6.5).
"""

from __future__ import annotations

from collections.abc import Mapping


def fair_shares(
    capacity: float, demands: Mapping[str, float], weights: Mapping[str, float]
) -> dict[str, float]:
    """Return what each org of `demands` is due of `capacity`, in the same unit as both."""
    due = dict.fromkeys(demands, 0.0)
    hungry = {org for org, demand in demands.items() if demand > 0}
    left = capacity
    while hungry and left > 1e-12:
        total = sum(weights[org] for org in hungry)
        level = left / total
        sated = {org for org in hungry if demands[org] - due[org] <= level * weights[org]}
        if not sated:
            for org in hungry:
                due[org] += level * weights[org]
            return due
        for org in sated:
            left -= demands[org] - due[org]
            due[org] = demands[org]
        hungry -= sated
    return due

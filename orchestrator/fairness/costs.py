"""Virtual cost: what one admission moves a tag, as an integer.

Integers make conservation exact: a charge taken back leaves a tag bit-identical, which no float
promises. Source: the tags of SFQ (Goyal, Vin, Cheng 1996), `tag += cost / weight`.
"""

# Ten binary digits below a microsecond of weight 1, so that division by a weight keeps its worth.
SCALE = 2**10
# In count mode every task costs this, whatever it takes: one nominal second of worker time.
COUNT_COST_US = 1_000_000
# A term whose virtual time passes this ends itself, and the next election renormalises: bigint
# holds eight times as much, so no tag can overflow in between.
TAG_LIMIT = 2**60


def charge_of(cost_us: int, weight: int) -> int:
    """Return the virtual cost of `cost_us` microseconds of worker time at `weight`, at least 1."""
    return max(1, cost_us * SCALE // weight)

"""Virtual cost: what worker time moves a tag, as an integer; and what a task is expected to cost.

Integers make conservation exact: a charge taken back leaves a tag bit-identical, which no float
promises. Source: the tags of SFQ (Goyal, Vin, Cheng 1996), `tag += cost / weight`; charged as a
guess and corrected to the truth as in Kubernetes' API priority and fairness (KEP-1040).
"""

# Ten binary digits below a microsecond of weight 1, so that division by a weight keeps its worth.
SCALE = 2**10
# In count mode every task costs this, whatever it takes: one nominal second of worker time.
COUNT_COST_US = 1_000_000
# In time mode, the guess before anything was ever measured: what a task takes that does nothing.
# What is too little is paid later, by the org itself. Too much would lift the virtual time until
# the refund, and who joins the line in between would stand behind what nobody used.
GUESS_US = 10
# An attempt is charged for a week of worker time at the most. Longer ones are rare; a clock that
# was decades behind and is put right makes all that runs as old, and tags would not hold that.
COST_MAX_US = 7 * 86_400 * 1_000_000
# A term whose virtual time passes this ends itself, and the next election renormalises: bigint
# holds eight times as much, so no tag can overflow in between.
TAG_LIMIT = 2**60
# The tag of who was never in line: below any that was ever charged, whatever virtual time was taken
# off the others.
TAG_MIN = -(2**61)
# Weight of one measurement in an estimate: the last five decide two thirds of it.
_ESTIMATE_PART = 5
# After this many equal measurements an estimate is within 3% of them.
_STEPS_MAX = 16
# An overrun is charged by this factor at least, so a task is charged O(log duration) times.
_OVERRUN_NUM, _OVERRUN_DEN = 5, 4


def charge_of(cost_us: int, weight: int) -> int:
    """Return the virtual cost of `cost_us` microseconds of worker time at `weight`, at least 1."""
    return cost_us * SCALE // weight or 1


def learn(estimate_us: int, total_us: int, count: int) -> int:
    """Return an estimate after `count` attempts that took `total_us` together; 0 is unknown.

    An exponentially weighted mean, each attempt a fifth (EWMA 0.2).
    """
    mean = max(1, total_us // count)
    if not estimate_us:
        return mean
    for _ in range(min(count, _STEPS_MAX)):
        estimate_us += (mean - estimate_us) // _ESTIMATE_PART
    return max(1, estimate_us)


def overrun(charged_us: int, elapsed_us: int) -> int:
    """Return what a task that still runs after `elapsed_us` is charged now: geometric steps."""
    return max(elapsed_us, -(-charged_us * _OVERRUN_NUM // _OVERRUN_DEN))

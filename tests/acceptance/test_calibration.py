"""Tasks start when `explain` says they will: stated intervals hold beside a noisy neighbour."""

from __future__ import annotations

import pytest

from benchmarks import calibration

# Stated is 0.8. The machine of the test stalls now and then, and no interval knows of that.
INSIDE_MIN = 0.7
SAMPLES_MIN = 100
# An interval wider than this, in units of the wait, would hold anything and tell nothing.
WIDTH_MAX = 3.0


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_seven_in_ten_tasks_start_inside_their_stated_interval() -> None:
    figures = calibration.run(quick=True)
    samples, inside = figures["samples"], figures["inside"]
    assert isinstance(samples, int)
    assert isinstance(inside, float)
    assert samples >= SAMPLES_MIN, figures
    assert inside >= INSIDE_MIN, figures
    for part in ("noisy", "others"):
        width = figures[f"width_per_wait_{part}"]
        assert isinstance(width, float)
        assert 0 < width <= WIDTH_MAX, figures

"""The benchmarks of speed and of flat costs, one module each: `measure(quick) -> Result`.

Whoever is compared is measured in the same sitting, one right after the other, several times; what
is reported is the median of the ratios of such pairs. Absolute rates are of the machine and the
minute, so nothing is held against them.
"""

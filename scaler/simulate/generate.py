"""Three kinds of load, made up but stated: distributions, parameters and seed are all there is to them.

All three ask for 1, 2, 4 or 8 processors (weights 4, 3, 2, 1) with 2 GiB each. Run times are lognormal with the mean
and shape named below: many short jobs, a few long ones, as real traces have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from random import Random

from penstock.errors import InvalidInput
from scaler.simulate.trace import Job, Trace

_DAY_S = 86_400
_GIB = 1 << 30
_SIZES, _WEIGHTS = (1, 2, 4, 8), (4, 3, 2, 1)
_MEAN_RUN_S, _SHAPE = 600.0, 1.0
_BURST = 40
_BURST_WIDTH_S = 120.0


def steady(rng: Random, days: float, per_day: float) -> Iterator[float]:
    """Poisson arrivals at a constant rate."""
    now = rng.expovariate(per_day / _DAY_S)
    while now < days * _DAY_S:
        yield now
        now += rng.expovariate(per_day / _DAY_S)


def bursty(rng: Random, days: float, per_day: float) -> Iterator[float]:
    """Bursts at Poisson times, of 1 + a geometric number of jobs (mean 40), spread evenly over two minutes."""
    times: list[float] = []
    start = rng.expovariate(per_day / _BURST / _DAY_S)
    while start < days * _DAY_S:
        size = 1 + int(math.log(1.0 - rng.random()) / math.log(1.0 - 1.0 / _BURST))
        times.extend(start + rng.random() * _BURST_WIDTH_S for _ in range(size))
        start += rng.expovariate(per_day / _BURST / _DAY_S)
    yield from (time for time in sorted(times) if time < days * _DAY_S)


def diurnal(rng: Random, days: float, per_day: float) -> Iterator[float]:
    """Poisson arrivals whose rate follows the sun: 1 + 0.9 sin over the day, peak at 15:00; a quarter at weekends."""
    # Mean factor of a week: (5 + 2 / 4) / 7.
    peak = per_day / _DAY_S * 1.9 * 7 / 5.5
    now = 0.0
    while (now := now + rng.expovariate(peak)) < days * _DAY_S:
        hour, day = now % _DAY_S / 3600, int(now // _DAY_S) % 7
        rate = (1 + 0.9 * math.sin((hour - 9) * math.pi / 12)) / 1.9 * (0.25 if day >= 5 else 1.0)
        if rng.random() < rate:
            yield now


KINDS: dict[str, Callable[[Random, float, float], Iterator[float]]] = {
    "steady": steady,
    "bursty": bursty,
    "diurnal": diurnal,
}


def generate(kind: str, *, days: float = 14.0, per_day: float = 1000.0, seed: int = 1) -> Trace:
    """A synthetic trace; the same arguments give the same trace. Raises InvalidInput."""
    if kind not in KINDS:
        raise InvalidInput(f"{kind!r} is no kind of load; known are {', '.join(KINDS)}", where="trace")
    if not (0 < days <= 3660 and 0 < per_day <= 10**7):
        raise InvalidInput("days must be from 0 to 3660 and jobs per day from 0 to 10 million", where="trace")
    rng = Random(f"{kind}/{seed}")  # noqa: S311 - made-up load, nothing secret
    centre = math.log(_MEAN_RUN_S) - _SHAPE**2 / 2
    jobs = []
    for number, time in enumerate(KINDS[kind](rng, days, per_day), start=1):
        size = rng.choices(_SIZES, _WEIGHTS)[0]
        runtime = max(1.0, rng.lognormvariate(centre, _SHAPE))
        requests = (("cpu", 1000 * size), ("memory", 2 * _GIB * size), ("pods", 1))
        jobs.append(Job(str(number), round(time * 1000), round(runtime * 1000), requests))
    about = (
        f"{kind}: {(KINDS[kind].__doc__ or '').strip()} {per_day:g} jobs a day for {days:g} days, run time lognormal "
        f"with mean {_MEAN_RUN_S:g} s and shape {_SHAPE:g}, seed {seed}."
    )
    return Trace(name=kind, jobs=tuple(jobs), about=about)

"""Small simulations whose every printed figure is kept in `figures.txt`, so that making the simulation faster cannot
change what it finds.

`python -m tests.scaler.figures` writes the file anew; do that only when a rule was changed on purpose, and say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from scaler.configuration import parse_fleet
from scaler.pools import Billing, Caps, Fleet, Spare
from scaler.simulate import Job, SimulationOptions, Trace, simulate, table
from scaler.simulate.clues import CluesOptions
from scaler.simulate.generate import KINDS, generate
from scaler.simulate.quality import EXAMPLE_POOLS
from tests.scaler.building import GIB, MINUTE, make_fleet, make_pool

FILE = Path(__file__).with_name("figures.txt")
EXAMPLE = parse_fleet(EXAMPLE_POOLS)


def cases() -> Iterator[tuple[str, SimulationOptions]]:
    """Name and options of each simulation."""
    for kind in KINDS:
        for seed in (1, 2, 3):
            yield f"{kind}, seed {seed}", SimulationOptions(trace=generate(kind, days=1, seed=seed), fleet=EXAMPLE)
        crowded = generate(kind, days=0.1, per_day=9000, seed=4)
        yield f"{kind}, too much for the machines", SimulationOptions(trace=crowded, fleet=EXAMPLE)
    packed = SimulationOptions(trace=generate("bursty", days=1, seed=5), fleet=EXAMPLE, pack=True, energy_price=0.3)
    yield "bursty, packed and priced", packed
    eager = CluesOptions(reconsider_ms=0, max_booting=3, extra_nodes=2, idle_ms=600_000, cooldown_nodes_ms=900_000)
    yield (
        "CLUES with other options",
        SimulationOptions(trace=generate("bursty", days=0.5, seed=6), fleet=EXAMPLE, clues=eager),
    )
    yield "gangs on pools of all kinds", SimulationOptions(trace=_gangs(), fleet=_pools())


def _gangs() -> Trace:
    """Jobs of one to three tasks, some of them too large for some of the pools, one too large for all."""
    rng = Random(7)
    submits = sorted(rng.randrange(43_200_000) for _ in range(300))
    jobs = []
    for number, submit in enumerate(submits):
        cpu, gibibytes = rng.choice((500, 1500, 5000, 9000, 14_000)), rng.choice((1, 3, 9))
        requests = (("cpu", cpu), ("memory", gibibytes * GIB), ("pods", 1))
        tasks = 40 if number == 200 else rng.choice((1, 1, 1, 2, 3))
        jobs.append(Job(str(number), submit, rng.randrange(5_000, 900_000), requests, tasks))
    return Trace(name="gangs", jobs=tuple(jobs), about="Some jobs are gangs, one of them too large.")


def _pools() -> Fleet:
    made = make_pool(
        "made", max=9, price_per_hour=1.5, max_booting=4, billing=Billing(interval_ms=60 * MINUTE, margin_ms=5 * MINUTE)
    )
    spare = (Spare(nodes=1, start_min=8 * 60, until_min=18 * 60), Spare(amounts=(("cpu", 3000),), percent=10))
    kept = make_pool("kept", hosts=tuple(f"kept-{n}" for n in range(6)), max=6, min=1, weight=1, spare=spare)
    large = make_pool("large", max=3, resources=(("cpu", 16_000), ("memory", 64 * GIB), ("pods", 110)), boot_ms=300_000)
    return make_fleet(made, kept, large, caps=Caps(nodes=14))


def found(options: SimulationOptions) -> str:
    """What is printed, and what is counted besides."""
    report = simulate(options)
    decisions = ", ".join(f"{one.policy} {one.decisions}" for one in report.outcomes)
    return f"{table(report)}\ndecisions: {decisions}"


def kept() -> dict[str, str]:
    """By case, as the file has it."""
    parts = FILE.read_text(encoding="utf-8").split("== ")[1:]
    return {name: text.strip() for name, _, text in (part.partition("\n") for part in parts)}


def write() -> None:
    text = "\n\n".join(f"== {name}\n{found(options)}" for name, options in cases())
    FILE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()

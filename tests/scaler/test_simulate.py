from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import InvalidInput, PenstockError
from scaler.configuration import parse_fleet
from scaler.engine import decide
from scaler.pools import Billing, Fleet, capacity
from scaler.simulate import Job, Report, SimulationOptions, Trace, read_trace, simulate, simulate_with_chart, table
from scaler.simulate.__main__ import main
from scaler.simulate.always_on import AlwaysOn
from scaler.simulate.clues import CluesOptions
from scaler.simulate.generate import KINDS, generate
from scaler.simulate.ours import Penstock
from scaler.simulate.quality import EXAMPLE_POOLS, recorded, shortfalls
from scaler.simulate.report import percentile
from scaler.simulate.theirs import Clues
from scaler.simulate.trace import joined, parse_csv, parse_swf
from scaler.simulate.worker import Worker
from scaler.simulate.world import World
from tests.scaler.building import GIB, MINUTE, make_fleet, make_pool

HOUR_S = 3600
EXAMPLE = parse_fleet(EXAMPLE_POOLS)


def job(number: int, at_s: float = 0, run_s: float = 60, cpu: int = 1000, tasks: int = 1) -> Job:
    return Job(
        str(number), round(at_s * 1000), round(run_s * 1000), (("cpu", cpu), ("memory", GIB), ("pods", 1)), tasks
    )


def hosts(count: int, **changes: Any) -> Fleet:
    names = tuple(f"n{number}" for number in range(count))
    return make_fleet(make_pool(hosts=names, max=count, **changes))


def report_of(fleet: Fleet, *jobs: Job) -> Report:
    return simulate(SimulationOptions(trace=Trace(name="t", jobs=jobs), fleet=fleet))


def test_one_job_by_hand() -> None:
    # Boot 120 s at 150 W after a batch window of 1 s; one of eight cores for 60 s; five minutes idle; 20 s going off.
    world = World(hosts(1), [job(1, at_s=100)], Penstock(hosts(1)))
    world.run_out()
    world.run_until(1_000_000)
    (machine,) = world.machines
    assert world.waits_ms == [121_000]
    on_s = 120 + 60 + 300 + 20
    assert machine.on_ms == on_s * 1000
    watts = 140 * 150 + 60 * (100 + 150 / 8) + 300 * 100 + (1000 - on_s) * 5
    assert machine.energy_j == pytest.approx(watts)
    assert (machine.boots, machine.idle_ms) == (1, 300_000)


def test_clues_by_hand() -> None:
    # Seen at 105, a request after more than 60 s (170), ordered in the next pass (175), on at 295.
    world = World(hosts(1), [job(1, at_s=101)], Clues())
    world.run_out()
    world.run_until(3 * HOUR_S * 1000)
    assert world.waits_ms == [(295 - 101) * 1000]
    # Idle at 355, seen by the next poll (360); off at the first poll more than 1800 s later.
    assert world.machines[0].idle_ms == (2165 - 355) * 1000


def test_always_on_never_boots_and_never_waits_for_a_boot() -> None:
    world = World(hosts(3), [job(1), job(2, cpu=8000)], AlwaysOn())
    world.run_out()
    assert world.waits_ms == [0, 0]
    assert sum(machine.boots for machine in world.machines) == 0


def test_the_scheduler_passes_over_what_does_not_fit_and_keeps_order_among_equals() -> None:
    jobs = [job(1, 0, 100, 8000), job(2, 1, 100, 8000), job(3, 2, 10, 2000), job(4, 3, 10, 8000)]
    world = World(hosts(1), jobs, AlwaysOn())
    world.run_out()
    # 3 is not let in before 2: nothing is free until 100; then 2 is first.
    assert world.waits_ms == [0, 99_000, 198_000, 207_000]


def test_gangs_start_together_or_not_at_all() -> None:
    jobs = [job(1, 0, 100, 8000), job(2, 1, 50, 8000, tasks=2)]
    world = World(hosts(2), jobs, AlwaysOn())
    world.run_out()
    assert world.waits_ms == [0, 99_000]
    assert report_of(hosts(2), job(1, tasks=3, cpu=8000)).of("penstock").unstarted == 1


def test_steered_nodes_are_filled_last() -> None:
    world = World(hosts(2), [job(1), job(2, 1)], AlwaysOn())
    world.machines[0].steered = True
    world.run_out()
    world.run_until(world.now)
    assert [machine.idle_ms > 0 for machine in world.machines] == [True, False]
    spread = World(hosts(2), [job(1), job(2, 1)], AlwaysOn())
    spread.run_out()
    assert spread.machines[0].idle_ms < spread.now


def test_the_world_refuses_to_power_off_a_machine_with_work() -> None:
    world = World(hosts(1), [job(1)], AlwaysOn())
    world._step(0)
    with pytest.raises(AssertionError, match="with 1 jobs on it"):
        world.power_off(world.machines[0])


@settings(max_examples=25, deadline=None)
@given(
    jobs=st.lists(
        st.tuples(
            st.integers(0, 20_000), st.integers(1, 9000), st.sampled_from([500, 1000, 4000, 8000]), st.integers(1, 3)
        ),
        min_size=1,
        max_size=60,
    )
)
def test_every_job_runs_once_and_the_books_balance(jobs: list[tuple[int, int, int, int]]) -> None:
    ordered = [job(number, *entry) for number, entry in enumerate(sorted(jobs))]
    fleet = hosts(4)
    for controller in (Penstock(fleet), Clues(), AlwaysOn()):
        world = World(fleet, ordered, controller)
        world.run_out()
        world.run_until(world.last_end_ms + 4 * HOUR_S * 1000)
        assert len(world.waits_ms) == len(ordered)
        assert min(world.waits_ms) >= 0
        for machine in world.machines:
            assert machine.free == machine.whole
            assert machine.on_ms + machine.off_ms == world.now
        if controller.name != "always on":
            assert world.on == {}, "without work everything goes off"


def test_c18_the_simulation_uses_the_engine_and_is_deterministic() -> None:
    trace = generate("bursty", days=1)
    options = SimulationOptions(trace=trace, fleet=EXAMPLE)
    assert simulate(options) == simulate(options)
    controller = Penstock(EXAMPLE, keep_plans=True)
    world = World(EXAMPLE, trace.jobs, controller)
    world.run_until(HOUR_S * 1000)
    assert controller.plans
    assert decide(controller.snapshot(), EXAMPLE) == decide(controller.snapshot(), EXAMPLE)


@pytest.mark.parametrize("kind", [*KINDS, "recorded"])
@pytest.mark.parametrize("reconsider_ms", [60_000, 0], ids=["clues", "clues without its delay"])
def test_c16_quality_no_more_energy_than_clues_at_no_worse_p95_wait(kind: str, reconsider_ms: int) -> None:
    clues = CluesOptions(reconsider_ms=reconsider_ms)
    report = simulate(SimulationOptions(trace=_load(kind), fleet=EXAMPLE, clues=clues))
    assert shortfalls(report) == []
    assert report.of("always on").kwh > report.of("clues").kwh
    assert all(outcome.unstarted == 0 for outcome in report.outcomes)


def _load(kind: str) -> Trace:
    return recorded() if kind == "recorded" else generate(kind, days=7)


def test_c18_a_long_trace_in_two_processes_gives_the_same_report(monkeypatch: pytest.MonkeyPatch) -> None:
    options = SimulationOptions(trace=generate("bursty", days=1), fleet=EXAMPLE, chart=True)
    alone = simulate_with_chart(options)
    monkeypatch.setattr("scaler.simulate.run.PARALLEL_FROM", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert simulate_with_chart(options) == alone


def test_a_second_process_that_ends_early_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/true")
    options = SimulationOptions(trace=generate("steady", days=0.2), fleet=EXAMPLE)
    with pytest.raises(PenstockError, match="ended before its answer"), Worker(options) as worker:
        worker.run_out()


def test_energy_is_compared_over_the_same_time_and_money_counts_paid_intervals() -> None:
    fleet = hosts(2, price_per_hour=2.0, billing=Billing(interval_ms=60 * MINUTE, margin_ms=5 * MINUTE))
    report = report_of(fleet, job(1))
    for outcome in report.outcomes[:2]:
        assert outcome.money == pytest.approx(2.0)
        assert outcome.saved_share == pytest.approx(1 - outcome.kwh / report.of("always on").kwh)
    assert report.of("penstock").node_hours == pytest.approx(55 / 60, abs=0.02)
    priced = simulate(SimulationOptions(trace=Trace(name="t", jobs=(job(1),)), fleet=hosts(1), energy_price=0.5))
    assert priced.of("always on").money == pytest.approx(priced.of("always on").kwh * 0.5)


def test_percentiles() -> None:
    assert [percentile([1.0, 2.0, 3.0, 4.0], share) for share in (0.0, 0.5, 0.51, 0.95, 1.0)] == [1, 2, 3, 4, 4]
    assert percentile([], 0.5) == 0.0


def test_generated_traces_are_what_they_say() -> None:
    for kind in KINDS:
        trace = generate(kind, days=30, seed=3)
        assert trace == generate(kind, days=30, seed=3)
        assert trace.jobs[:9] != generate(kind, days=1, seed=4).jobs[:9]
        assert len(trace.jobs) == pytest.approx(30_000, rel=0.15)
        runs = [entry.runtime_ms / 1000 for entry in trace.jobs]
        assert sum(runs) / len(runs) == pytest.approx(600, rel=0.05)
        assert "seed 3" in trace.about
    hours = [0] * 24
    for entry in generate("diurnal", days=60).jobs:
        hours[entry.submit_ms // 3_600_000 % 24] += 1
    assert hours.index(max(hours)) in {14, 15}
    assert max(hours) > 8 * min(hours)
    with pytest.raises(InvalidInput, match="days must be"):
        generate("steady", days=0)


def test_csv(tmp_path: Path) -> None:
    lines = [
        "id,submit,runtime,cpu,memory,tasks,nvidia.com/gpu",
        "a,10,5.5,500m,1Gi,2,",
        "# note",
        "b,1,0,1,,,1",
        "c,3,1,2,,,1",
    ]
    jobs, left_out = parse_csv(lines)
    assert left_out == 1
    assert jobs[0] == Job("a", 10_000, 5_500, (("cpu", 500), ("memory", GIB), ("pods", 1)), 2)
    assert jobs[1].requests == (("cpu", 2000), ("nvidia.com/gpu", 1), ("pods", 1))
    path = tmp_path / "jobs.csv"
    path.write_text("\n".join(lines))
    assert [entry.id for entry in read_trace(path).jobs] == ["c", "a"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["submit,cpu", "1,1"], "line 1: column 'runtime' is missing"),
        (["submit,runtime,cpu,cpu"], "line 1: a column is named twice"),
        (["submit,runtime,cpu", "1,2"], "line 2: has 2 values for 3 columns"),
        (["submit,runtime,cpu", "1,2,1", "x,2,1"], "line 3, column submit: 'x' is not a number of seconds"),
        (["submit,runtime,cpu", "1,nan,1"], "line 2, column runtime: 'nan' is not a number of seconds"),
        (["submit,runtime,cpu", "1,-2,1"], "line 2, column runtime"),
        (["submit,runtime,cpu", "1,2,two"], "line 2, column cpu: 'two' is not a quantity"),
        (["submit,runtime,cpu,tasks", "1,2,1,0"], "line 2, column tasks: '0' is not a whole number of 1 or more"),
    ],
)
def test_bad_csv_is_refused_with_its_line(lines: list[str], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_csv(lines)
    assert str(caught.value).startswith(message)


SWF = [
    "; Version: 2.2",
    "1 0 5 100 4 90 1024 4 200 -1 1 1 1 -1 1 -1 -1 -1",
    "2 10 -1 -1 -1 -1 -1 8 200 -1 0 1 1 -1 1 -1 -1 -1",
    "3 20 0 50 -1 -1 -1 2 60 2048 1 1 1 -1 1 -1 -1 -1",
]


def test_standard_workload_format() -> None:
    jobs, left_out = parse_swf(SWF)
    assert left_out == 1
    assert jobs == [
        Job("1", 0, 100_000, (("cpu", 1000), ("memory", 1 << 20), ("pods", 1)), 4),
        Job("3", 20_000, 50_000, (("cpu", 1000), ("memory", 2 << 20), ("pods", 1)), 2),
    ]
    with pytest.raises(InvalidInput, match="line 1: is not a line of the Standard Workload Format"):
        parse_swf(["1 2 three"])


def test_tasks_of_one_job_are_put_together_as_far_as_a_node_holds_them() -> None:
    offers = [capacity(make_pool())]
    (whole,) = joined([job(1, tasks=4)], offers)
    assert (whole.tasks, dict(whole.requests)["cpu"], dict(whole.requests)["pods"]) == (1, 4000, 1)
    (split,) = joined([job(1, tasks=12)], offers)
    assert (split.tasks, dict(split.requests)["cpu"]) == (2, 6000)
    (prime,) = joined([job(1, tasks=11)], offers)
    assert (prime.tasks, dict(prime.requests)["cpu"]) == (11, 1000)


def test_a_trace_without_jobs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.swf"
    path.write_text(SWF[0])
    with pytest.raises(InvalidInput, match="holds no job that ran"):
        read_trace(path)


def test_the_chart_is_svg_with_a_line_per_policy_and_panel() -> None:
    options = SimulationOptions(trace=generate("diurnal", days=1), fleet=EXAMPLE, chart=True)
    report, drawing = simulate_with_chart(options)
    root = ET.fromstring(drawing)
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}polyline")) == 6
    texts = [element.text for element in root.iter(f"{space}text")]
    assert {"penstock", "clues", "always on", "20"} <= set(texts)
    assert len(table(report).splitlines()) == 5


def test_the_command(tmp_path: Path) -> None:
    trace, pools, drawing = tmp_path / "jobs.csv", tmp_path / "pools.yaml", tmp_path / "out.svg"
    trace.write_text("submit,runtime,cpu\n0,60,1\n")
    pools.write_text("pools:\n- {name: p, max: 2, resources: {cpu: 4, memory: 8Gi}}\n")
    result = CliRunner().invoke(main, ["--trace", str(trace), "--pools", str(pools), "--chart", str(drawing), "--json"])
    assert result.exit_code == 0, result.output
    assert msgspec.json.decode(result.output, type=Report).jobs == 1
    assert drawing.read_text().startswith("<svg")
    pools.write_text("pools:\n- {name: p, min: 3, max: 2, resources: {cpu: 4, memory: 8Gi}}\n")
    result = CliRunner().invoke(main, ["--trace", str(trace), "--pools", str(pools)])
    assert result.exit_code == 7
    assert "pools.yaml: pools[0].min: 3 is more than max, 2; min may be at most that" in result.output
    assert CliRunner().invoke(main, []).exit_code == 2


def test_it_starts_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scaler.simulate", "--generate", "steady", "--days", "0.2"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith("steady: ")
    assert "always on" in done.stdout

"""The driver over a real Infrastructure Manager with its Dummy cloud: whatever goes wrong, no machine is lost or made
twice, and nothing that cannot be read looks empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from penstock.errors import Forbidden, InvalidInput, Unavailable
from penstock.ports import NodeAdd, NodeTarget, Outcome, ProviderState
from scaler.drivers.im_client import Rejected, read_authorization
from scaler.drivers.infrastructure_manager import InfrastructureManagerProvider
from scaler.drivers.radl import Template, check_template, document, read_machine
from scaler.machines import Machines
from tests.contracts.node_benches import MANAGERS, NETWORK, SYSTEM, im_provider
from tests.testbed.bed import Bed
from tests.testbed.im import InfrastructureManager
from tests.testbed.links import Cut


@pytest.fixture
async def folder(im: InfrastructureManager, tmp_path: Path) -> Path:
    MANAGERS[:] = [im]
    return tmp_path


def order(number: int, generation: int = 1) -> NodeAdd:
    return NodeAdd(key=f"w-{number}/{generation}", name=f"w-{number}", pool="made")


@asynccontextmanager
async def driver(folder: Path, **changes: object) -> AsyncIterator[InfrastructureManagerProvider]:
    fields = {"driver": folder.name} | changes
    provider = im_provider(folder, **fields)  # type: ignore[arg-type]
    try:
        yield provider
    finally:
        await provider.close()


async def names(provider: InfrastructureManagerProvider) -> list[str]:
    return sorted(node.name for node in await provider.list())


@pytest.mark.components
async def test_a_full_life_create_grow_shrink_by_comma_and_down_to_nothing(folder: Path) -> None:
    async with driver(folder) as provider:
        assert await provider.list() == []
        assert not (folder / "infrastructure").exists()
        first = await provider.add([order(1)])
        more = await provider.add([order(number) for number in (2, 3, 4)])
        assert {answer.outcome for answer in (*first, *more)} == {Outcome.ACCEPTED}
        known = (folder / "infrastructure").read_text()
        assert await names(provider) == ["w-1", "w-2", "w-3", "w-4"]
        targets = [NodeTarget(key=f"w-{number}/2", id=more[number - 2].id) for number in (2, 4)]
        assert [answer.outcome for answer in await provider.remove(targets)] == [Outcome.ACCEPTED] * 2
        assert await names(provider) == ["w-1", "w-3"]
        rest = [NodeTarget(key=f"{node.name}/2", id=node.id) for node in await provider.list()]
        await provider.remove(rest)
        assert await names(provider) == []
        await provider.add([order(1, 3)])
        assert (folder / "infrastructure").read_text() == known, "the same infrastructure grows again"


@pytest.mark.components
async def test_a_machine_is_stopped_with_its_disk_and_comes_back(folder: Path) -> None:
    async with driver(folder) as provider:
        (made,) = await provider.add([order(1)])
        target = NodeTarget(key="w-1/2", id=made.id)
        for _ in range(2):
            assert (await provider.stop([target]))[0].outcome is Outcome.ACCEPTED
        assert [node.state for node in await provider.list()] == [ProviderState.SUSPENDED]
        assert (await provider.start([target]))[0].outcome is Outcome.ACCEPTED
        assert (await provider.list())[0].state is not ProviderState.SUSPENDED
        (unknown,) = await provider.start([NodeTarget(key="x/1", id="77")])
        assert (unknown.outcome, "77" in unknown.message) == (Outcome.CONFIGURATION, True)


@pytest.mark.components
async def test_a_lost_note_of_the_infrastructure_is_found_again_by_its_mark(folder: Path) -> None:
    async with driver(folder) as provider:
        await provider.add([order(1)])
        known = (folder / "infrastructure").read_text()
        (folder / "infrastructure").unlink()
        assert await names(provider) == ["w-1"]
        assert (folder / "infrastructure").read_text() == known


@pytest.mark.components
async def test_c12_wrong_credentials_are_said_as_such_and_never_an_empty_list(folder: Path) -> None:
    async with driver(folder) as provider:
        await provider.add([order(1)])
        good = (folder / "auth.dat").read_text()
        # Another user is a stranger to the infrastructure; none at all is refused before that.
        for bad in (good.replace("testbed-secret", "expired"), "id = dummy; type = Dummy"):
            (folder / "auth.dat").write_text(bad)
            with pytest.raises(Forbidden) as caught:
                await provider.list()
            assert "expired" not in caught.value.message
            with pytest.raises(Forbidden):
                await provider.add([order(2)])
        # The file is read at each call: a renewed token works at once.
        (folder / "auth.dat").write_text(good)
        assert await names(provider) == ["w-1"]


@pytest.mark.components
async def test_c12_wrong_credentials_pause_the_driver_with_one_clear_alarm(folder: Path) -> None:
    async with driver(folder) as provider:
        now = [1_800_000_000_000]
        machines = Machines("cloud", provider, clock=lambda: now[0], changed=lambda: None)
        await provider.add([order(1)])
        await machines.refresh()
        assert machines.view.complete
        good = (folder / "auth.dat").read_text()
        (folder / "auth.dat").write_text(good.replace("testbed-secret", "expired"))
        await machines.refresh()
        alarm = machines.paused
        assert alarm.startswith("driver cloud is paused: its credentials are refused")
        assert not machines.view.complete
        assert [one.name for one in machines.listed] == ["w-1"], "what was known stays known"
        (folder / "auth.dat").write_text(good)
        now[0] += 30_000
        await machines.refresh()
        assert machines.paused == alarm, "it is left alone for a while"
        now[0] += 60_000
        await machines.refresh()
        assert not machines.paused
        assert machines.view.complete


@pytest.mark.components
async def test_w1_w3_a_manager_that_cannot_be_reached_is_never_empty(folder: Path, im: InfrastructureManager) -> None:
    async with driver(folder, call_s=2.0, launch_s=2.0) as provider:
        await provider.add([order(1)])
        for kind in (Cut.REFUSE, Cut.DROP):
            await im.cut(kind)
            with pytest.raises(Unavailable):
                await provider.list()
            with pytest.raises(Unavailable):
                await provider.add([order(2)])
            await im.mend()
        assert await names(provider) == ["w-1"]


@pytest.mark.components
async def test_c3_a_launch_whose_answer_comes_too_late_makes_no_twin(folder: Path, im: InfrastructureManager) -> None:
    async with driver(folder, launch_s=1.0) as slow, driver(folder) as patient:
        await patient.add([order(1)])
        await im.slow(1.5)
        with pytest.raises(Unavailable):
            await slow.add([order(2)])
        await im.mend()
        # It had reached the manager; said again with the same key it is found.
        for _ in range(2):
            (answer,) = await slow.add([order(2)])
        assert answer.outcome is Outcome.ACCEPTED
        assert await names(slow) == ["w-1", "w-2"]


@pytest.mark.components
async def test_a_template_that_the_manager_does_not_take_is_a_matter_of_configuration(folder: Path) -> None:
    async with driver(folder) as provider:
        await provider.add([order(1)])
        provider._templates["made"] = Template(system=SYSTEM.replace("'net'", "'nowhere'"), common=NETWORK)
        (answer,) = await provider.add([order(2)])
        assert answer.outcome is Outcome.CONFIGURATION
        assert "connection" in answer.message
        assert await names(provider) == ["w-1"]


@pytest.mark.components
async def test_removing_machines_of_which_one_is_gone_removes_the_others(folder: Path) -> None:
    async with driver(folder) as provider:
        answers = await provider.add([order(number) for number in (1, 2, 3)])
        targets = [NodeTarget(key=f"{answer.key}x", id=answer.id) for answer in answers]
        await provider.list()
        other = im_provider(folder, driver=folder.name)
        await other.remove(targets[:1])
        await other.close()
        assert [answer.outcome for answer in await provider.remove(targets)] == [Outcome.ACCEPTED] * 3
        assert await names(provider) == []


@pytest.mark.components
@pytest.mark.slow
async def test_w4_an_infrastructure_that_a_full_disk_forgot_stops_the_driver_and_is_never_empty(
    fault_bed: Bed, tmp_path: Path
) -> None:
    await fault_bed.start("im")
    im = fault_bed.im
    MANAGERS[:] = [im]
    async with driver(tmp_path) as provider:
        await im.fill()
        (answer,) = await provider.add([order(1)])
        assert answer.outcome is Outcome.ACCEPTED, "the manager says yes, and shows it when asked"
        await im.drain()
        await im.kill()
        await im.start()
        with pytest.raises(Unavailable, match=r"does not know infrastructure .* any more; its machines may still run"):
            await provider.list()
        with pytest.raises(Unavailable):
            await provider.add([order(2)])
        (tmp_path / "infrastructure").unlink()
        assert await provider.list() == []
        assert (await provider.add([order(2)]))[0].outcome is Outcome.ACCEPTED


# What the Dummy cloud cannot do is played by a server that answers as the manager does.


class Manager:
    """Answers by the path, from a table that a test changes."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.launch: Callable[[str], web.Response] = lambda _: web.json_response({"uri-list": []})
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path_qs}")
        path, body = request.path, await request.text()
        if request.method == "POST":
            return self.launch(body)
        if path.endswith("/state"):
            return web.json_response({"state": {"state": "failed", "vm_states": self.states}})
        if request.method == "DELETE":
            for vm in path.rsplit("/", 1)[1].split(","):
                del self.states[vm]
        elif "/vms/" in path:
            name = path.rsplit("/", 1)[1]
            tags = self.tags.get(name, f"penstock-key=w-{name}/1,penstock-pool=made")
            system = {
                "class": "system",
                "id": f"w-{name}",
                "instance_tags": tags,
                "disk.0.os.credentials.password": "x",
            }
            return web.json_response({"radl": [system]})
        return web.json_response({})


@asynccontextmanager
async def played(folder: Path) -> AsyncIterator[tuple[Manager, InfrastructureManagerProvider]]:
    manager = Manager()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", manager.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    (folder / "infrastructure").write_text("inf")
    provider = im_provider(folder, driver="played", url=f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        yield manager, provider
    finally:
        await provider.close()
        await runner.cleanup()


async def test_c12_of_a_launch_that_failed_in_part_the_rest_stays_and_the_failed_are_deleted(tmp_path: Path) -> None:
    async with played(tmp_path) as (manager, provider):

        def launch(_: str) -> web.Response:
            manager.states = {"1": "pending", "2": "failed", "3": "running"}
            return web.json_response({"uri-list": []})

        manager.launch = launch
        answers = await provider.add([order(number) for number in (1, 2, 3)])
        assert [answer.outcome for answer in answers] == [Outcome.ACCEPTED, Outcome.NO_CAPACITY, Outcome.ACCEPTED]
        assert manager.states.keys() == {"1", "3"}


async def test_c3_a_twin_of_a_slow_launch_is_deleted_and_the_older_stays(tmp_path: Path) -> None:
    async with played(tmp_path) as (manager, provider):

        def launch(_: str) -> web.Response:
            manager.states = {"4": "pending", "11": "pending"}
            manager.tags = dict.fromkeys(("4", "11"), "penstock-key=w-1/1,penstock-pool=made")
            return web.json_response({"uri-list": []})

        manager.launch = launch
        (answer,) = await provider.add([order(1)])
        assert (answer.outcome, answer.id) == (Outcome.ACCEPTED, "4")
        assert manager.states.keys() == {"4"}


@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        ("Error launching: Quota exceeded for cores", Outcome.NO_CAPACITY),
        ("Error launching: No valid host was found", Outcome.NO_CAPACITY),
        ("Error parsing request body: Parse error in: None", Outcome.CONFIGURATION),
        ("Error launching: connection reset by the cloud", Outcome.TRANSIENT),
    ],
)
async def test_c12_a_400_is_told_apart_by_what_it_says(tmp_path: Path, message: str, outcome: Outcome) -> None:
    async with played(tmp_path) as (manager, provider):
        manager.launch = lambda _: web.json_response({"message": message, "code": 400}, status=400)
        (answer,) = await provider.add([order(1)])
        assert answer.outcome is outcome
        assert message in answer.message


async def test_what_ansible_left_undone_is_configured_once_more_and_then_given_up(tmp_path: Path) -> None:
    async with played(tmp_path) as (manager, provider):
        manager.states = {"1": "unconfigured"}
        assert [node.state for node in await provider.list()] == [ProviderState.STARTING]
        assert [node.state for node in await provider.list()] == [ProviderState.FAILED]
        assert [line for line in manager.asked if "reconfigure" in line] == [
            "PUT /infrastructures/inf/reconfigure?vm_list=1"
        ]


async def test_a_state_that_is_not_known_is_never_off_and_a_front_end_is_not_ours(tmp_path: Path) -> None:
    async with played(tmp_path) as (manager, provider):
        manager.states = {"0": "configured", "1": "unknown", "2": "something new"}
        manager.tags = {"0": ""}
        front, *rest = await provider.list()
        assert not front.ours
        assert {node.state for node in rest} == {ProviderState.UNKNOWN}
        (answer,) = await provider.remove([NodeTarget(key="x/1", id="0")])
        assert answer.outcome is Outcome.CONFIGURATION
        assert "0" in manager.states


async def test_a_launch_goes_on_when_its_caller_is_cancelled_and_is_joined_by_the_next(tmp_path: Path) -> None:
    async with played(tmp_path) as (manager, provider):
        launches = []

        def launch(body: str) -> web.Response:
            launches.append(body)
            manager.states = {"1": "pending"}
            return web.json_response({"uri-list": []})

        manager.launch = launch
        first = asyncio.create_task(provider.add([order(1)]))
        await asyncio.sleep(0)
        first.cancel()
        (answer,) = await provider.add([order(1)])
        await asyncio.wait({first})
        assert answer.outcome is Outcome.ACCEPTED
        assert len(launches) == 1


def test_the_document_makes_each_machine_once_with_its_own_name_and_key() -> None:
    text = document(Template(system="cpu.count >= 2", common=NETWORK, tags="a=b"), [order(1), order(2)], mark="cloud")
    assert text.count("deploy w-1 1") == text.count("deploy w-2 1") == 1
    assert "instance_tags = 'penstock-key=w-2/1,penstock-pool=made,a=b'" in text
    assert text.startswith("description penstock ( name = 'nodes of Penstock' and penstock_driver = 'cloud' )\n")


@pytest.mark.parametrize("answer", [{}, {"radl": []}, {"radl": [{"class": "system", "password": "hunter2"}]}, [], None])
def test_a_description_that_cannot_be_read_says_so_without_its_secrets(answer: object) -> None:
    with pytest.raises(Unavailable) as caught:
        read_machine(answer)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_template_does_not_say_what_is_said_for_it() -> None:
    with pytest.raises(InvalidInput, match=r"^here: sets instance_tags"):
        check_template(Template(system="instance_tags = 'x'"), where="here")
    with pytest.raises(InvalidInput, match="system or deploy"):
        check_template(Template(system="cpu.count >= 1", common="network a ()\ndeploy x 2"), where="here")


def test_the_authorisation_is_joined_as_the_server_wants_it(tmp_path: Path) -> None:
    file = tmp_path / "auth.dat"
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_authorization(file)
    file.write_text("# mine\n\nid = a; type = OpenStack\n id = im; token = t \n")
    assert read_authorization(file) == "id = a; type = OpenStack\\nid = im; token = t"
    file.write_text("# nothing\n")
    with pytest.raises(InvalidInput, match="no authorisation line"):
        read_authorization(file)


def test_rejections_are_sorted() -> None:
    assert Rejected("Insufficient capacity").full
    assert not Rejected("boom").wrong

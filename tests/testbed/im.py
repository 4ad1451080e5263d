"""Infrastructure Manager, a separate program of its own licence, with its Dummy cloud.

Dummy machines are RUNNING at once and exist only in the manager's memory, so a driver can be tried against the real
REST interface. The manager reads its settings from a file beside its package, hence each bed gives it a copy of the
package. It would also like to log in to the machines' made-up addresses: where the bed has a network of its own it
lives there, from where no address of others can be reached.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, ClassVar

from tests.testbed.building import output_of
from tests.testbed.component import LOOPBACK, Component, Member
from tests.testbed.links import Address
from tests.testbed.lookup import obtain
from tests.testbed.probe import http_ok

if TYPE_CHECKING:
    from tests.testbed.bed import Bed

# One line per line of the Authorization header: the Dummy cloud, and a user of the manager itself.
AUTHORIZATION = (
    "id = dummy; type = Dummy\\nid = im; type = InfrastructureManager; username = testbed; password = testbed-secret"
)


class InfrastructureManager(Component):
    """One Infrastructure Manager."""

    name: ClassVar[str] = "im"
    lives_inside: ClassVar[bool] = True

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        self._port = bed.reservations.port()
        self.authorization = AUTHORIZATION
        """What a client sends in the Authorization header."""

    @property
    def url(self) -> str:
        """The REST interface, through the wire that `slow` and `cut` act on."""
        return f"http://{self.link.address}"

    def env(self) -> dict[str, str]:
        return {"PENSTOCK_TEST_IM_URL": self.url, "PENSTOCK_TEST_IM_AUTHORIZATION": self.authorization}

    async def prepare(self) -> list[Member]:
        uplink = await self.bed.uplink()
        direct = Address(uplink.node_address if uplink is not None else LOOPBACK, self._port)
        self._link = await self.make_link(direct)
        python = obtain("im")
        package = output_of([python, "-c", "import IM; print(IM.__path__[0])"]).strip()
        library = self.folder / "library"
        shutil.copytree(package, library / "IM")
        settings = {
            "REST_ADDRESS": direct.host,
            "REST_PORT": direct.port,
            "LOG_FILE": self.bed.logs / "im-service.log",
            "DATA_DB": f"sqlite:///{self.data / 'im.sqlite'}",
        }
        lines = "".join(f"{key} = {value}\n" for key, value in settings.items())
        (library / "im.cfg").write_text(f"[im]\n{lines}")

        async def ready() -> bool:
            return await http_ok(f"http://{direct}/version")

        env = {"PYTHONPATH": str(library), "IM_DATA_DB": str(settings["DATA_DB"]), "HOME": str(self.folder)}
        return [Member("im", [python, "-m", "IM.im_service"], ready, env=env, inside=uplink is not None, grace=3)]

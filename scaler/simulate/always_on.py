"""The baseline: every machine of every pool is on from beginning to end."""

from __future__ import annotations

from scaler.simulate.world import Machine, Task, World


class AlwaysOn:
    name = "always on"
    next_ms = 0

    def begin(self, world: World) -> None:
        for machine in world.machines:
            world.start_on(machine)

    def waits(self, task: Task) -> None: ...

    def placed(self, task: Task) -> None: ...

    def ended(self, task: Task) -> None: ...

    def switched(self, machine: Machine) -> None: ...

    def run(self) -> None: ...

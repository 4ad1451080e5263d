"""The few fields of Jobs and pods that Penstock reads, as the API server writes them. Nothing else is kept."""
# ruff: noqa: N815 - field names are the API's

from __future__ import annotations

from datetime import datetime

import msgspec


class Metadata(msgspec.Struct):
    name: str
    uid: str = ""
    creationTimestamp: datetime | None = None
    deletionTimestamp: datetime | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Condition(msgspec.Struct):
    type: str
    status: str = ""
    reason: str = ""
    message: str = ""
    lastTransitionTime: datetime | None = None


class TemplateMetadata(msgspec.Struct):
    annotations: dict[str, str] = {}


class Template(msgspec.Struct):
    metadata: TemplateMetadata = msgspec.field(default_factory=TemplateMetadata)


class JobSpec(msgspec.Struct):
    suspend: bool = False
    template: Template = msgspec.field(default_factory=Template)


class JobState(msgspec.Struct):
    conditions: list[Condition] = []
    startTime: datetime | None = None


class Job(msgspec.Struct):
    metadata: Metadata
    spec: JobSpec = msgspec.field(default_factory=JobSpec)
    status: JobState = msgspec.field(default_factory=JobState)

    def condition(self, kind: str) -> Condition | None:
        return _true(self.status.conditions, kind)


class Waiting(msgspec.Struct):
    reason: str = ""
    message: str = ""


class RunningSince(msgspec.Struct):
    startedAt: datetime | None = None


class Terminated(msgspec.Struct):
    exitCode: int = 0
    reason: str = ""
    message: str = ""
    startedAt: datetime | None = None
    finishedAt: datetime | None = None


class ContainerState(msgspec.Struct):
    waiting: Waiting | None = None
    running: RunningSince | None = None
    terminated: Terminated | None = None


class ContainerStatus(msgspec.Struct):
    name: str
    state: ContainerState = msgspec.field(default_factory=ContainerState)
    image: str = ""


class PodSpec(msgspec.Struct):
    nodeName: str = ""


class PodState(msgspec.Struct):
    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: list[Condition] = []
    containerStatuses: list[ContainerStatus] = []
    startTime: datetime | None = None


class Pod(msgspec.Struct):
    metadata: Metadata
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodState = msgspec.field(default_factory=PodState)

    def condition(self, kind: str) -> Condition | None:
        """The condition if it is true."""
        return _true(self.status.conditions, kind)

    def any_condition(self, kind: str) -> Condition | None:
        return next((one for one in self.status.conditions if one.type == kind), None)

    def container(self, name: str) -> ContainerState:
        return next((one.state for one in self.status.containerStatuses if one.name == name), ContainerState())

    @property
    def ended(self) -> bool:
        return self.status.phase in {"Succeeded", "Failed"}


def _true(conditions: list[Condition], kind: str) -> Condition | None:
    return next((one for one in conditions if one.type == kind and one.status == "True"), None)


def millis(moment: datetime | None) -> int:
    """Milliseconds since the epoch, 0 = not known."""
    return 0 if moment is None else int(moment.timestamp() * 1000)

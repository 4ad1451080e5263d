"""The frozen types that flow between the services. Pure data: no input or output, no clock, no logging.

msgspec structs rather than dataclasses: creating, comparing, encoding and decoding them is on the hot path of every
event, and their JSON is what the log, the ledger and the API store.
"""

from penstock.model.function import (
    Batch,
    BatchMode,
    Function,
    Limits,
    Resources,
    Scale,
    StorageIO,
    UploadOnFailure,
    Volume,
)
from penstock.model.job import (
    ErrorClass,
    ItemResult,
    JobItem,
    JobPhase,
    JobPlan,
    JobStatus,
    OtherStore,
    OutputObject,
)
from penstock.model.objects import (
    SYSTEM_BUCKET,
    BucketEvent,
    ObjectInfo,
    Origin,
    Submission,
    Trigger,
)
from penstock.model.record import (
    FINAL_PHASES,
    TOPIC_COMMANDS,
    TOPIC_DEAD,
    TOPIC_DEMAND,
    TOPIC_EVENTS,
    TOPIC_RECORDS,
    Command,
    CommandKind,
    DeadLetter,
    FunctionDemand,
    Mark,
    Phase,
    Record,
)

__all__ = [
    "FINAL_PHASES",
    "SYSTEM_BUCKET",
    "TOPIC_COMMANDS",
    "TOPIC_DEAD",
    "TOPIC_DEMAND",
    "TOPIC_EVENTS",
    "TOPIC_RECORDS",
    "Batch",
    "BatchMode",
    "BucketEvent",
    "Command",
    "CommandKind",
    "DeadLetter",
    "ErrorClass",
    "Function",
    "FunctionDemand",
    "ItemResult",
    "JobItem",
    "JobPhase",
    "JobPlan",
    "JobStatus",
    "Limits",
    "Mark",
    "ObjectInfo",
    "Origin",
    "OtherStore",
    "OutputObject",
    "Phase",
    "Record",
    "Resources",
    "Scale",
    "StorageIO",
    "Submission",
    "Trigger",
    "UploadOnFailure",
    "Volume",
]

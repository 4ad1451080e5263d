"""Every option that CLUES 2.3 reads, with what becomes of it here: the table behind `penstock node import`.

An option that is in neither part of the table is reported as unknown. Nothing that an operator wrote is dropped without
a word, because a limit that silently vanishes with a migration shows up as a bill.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping


class Use(enum.Enum):
    """How an option is used; each has its own branch in `clues_import`."""

    IDLE = enum.auto()
    MIN_ON = enum.auto()
    BOOT_TIMEOUT = enum.auto()
    STOP_TIMEOUT = enum.auto()
    MAX_BOOTING = enum.auto()
    SPARE_NODES = enum.auto()
    SPARE_SLOTS = enum.auto()
    GLITCH = enum.auto()
    TRIES = enum.auto()
    BACKOFF = enum.auto()
    HOLD = enum.auto()
    SHAPE_CPU = enum.auto()
    SHAPE_MEMORY = enum.auto()
    SHAPE_PODS = enum.auto()
    DISABLED = enum.auto()
    HOOK = enum.auto()
    HOOK_TIMEOUT = enum.auto()
    HOOK_FOLDER = enum.auto()
    DRIVER = enum.auto()
    SCHEDULERS = enum.auto()


HOOK_NAMES = (
    "PRE_POWERON",
    "PRE_POWEROFF",
    "POST_POWERON",
    "POST_POWEROFF",
    "POWEREDON",
    "POWEREDOFF",
    "UNEXPECTED_POWERON",
    "UNEXPECTED_POWEROFF",
    "ONERR",
    "OFFERR",
    "UNKNOWN",
    "IDLE",
    "USED",
    "REQUEST",
)

#: By name, whatever the section: CLUES's names are unique but for those of [client], which has its own reason.
MAPPED: Mapping[str, Use] = {
    "IDLE_TIME": Use.IDLE,
    "COOLDOWN_NODES": Use.MIN_ON,
    "MAX_WAIT_POWERON": Use.BOOT_TIMEOUT,
    "MAX_WAIT_POWEROFF": Use.STOP_TIMEOUT,
    "MAX_BOOTING_NODES": Use.MAX_BOOTING,
    "EXTRA_NODES_FREE": Use.SPARE_NODES,
    "EXTRA_SLOTS_FREE": Use.SPARE_SLOTS,
    "TIME_OFF_GLITCH_DETECTION": Use.GLITCH,
    "RETRIES_POWER_ON": Use.TRIES,
    "PERIOD_RECOVERY_NODES": Use.BACKOFF,
    "COOLDOWN_SERVED_REQUESTS": Use.HOLD,
    "KUBERNETES_NODE_SLOTS": Use.SHAPE_CPU,
    "KUBERNETES_NODE_MEMORY": Use.SHAPE_MEMORY,
    "KUBERNETES_NODE_PODS": Use.SHAPE_PODS,
    "DISABLED_HOSTS": Use.DISABLED,
    "TIMEOUT_COMMAND": Use.HOOK_TIMEOUT,
    "WORKING_FOLDER": Use.HOOK_FOLDER,
    "POWERMANAGER_CLASS": Use.DRIVER,
    "SCHEDULER_CLASSES": Use.SCHEDULERS,
    **dict.fromkeys(HOOK_NAMES, Use.HOOK),
}

_WATCHED = "nodes and pods are watched, not polled: a change is known at once"
_ADDRESS = "the interface is that of the gateway: PENSTOCK_HTTP_LISTEN"
_TOKEN = "credentials are made by Penstock, never taken over"  # noqa: S105 - a sentence, no password
_LOGS = "logs go to standard error: PENSTOCK_LOG_FORMAT and PENSTOCK_LOG_LEVEL"
_KUBE = "the API server is found by the pod's service account or a kubeconfig"
_OUTAGE = "a list that cannot be read is never taken as empty: after `fresh` nothing is switched until it can be"
_COMMANDS = "write the command into the configuration of driver `command`; docs/how-to/migrate-from-clues.md shows it"
_IM = "write it into the configuration of driver `infrastructure-manager`; docs/how-to/migrate-from-clues.md shows it"
_CLOUD = "there is no driver for it; use Infrastructure Manager in front of that cloud"

#: Why an option has no equivalent, or where its equivalent is set by hand.
UNMAPPED: Mapping[str, str] = {
    "LRMS_CLASS": "the cluster is Kubernetes",
    "CLUES_HOST": _ADDRESS,
    "CLUES_PORT": _ADDRESS,
    "CLUES_SECRET_TOKEN": _TOKEN,
    "DB_CONNECTION_STRING": "records are kept by the scaler itself; history of CLUES is not taken over",
    "TIMEOUT_COMMANDS": "every call of a driver has its own time limit",
    "LOGGER_MARK": _LOGS,
    "LOG_FILE": _LOGS,
    "LOG_LEVEL": _LOGS,
    "PATH_REPORTS_WEB": "figures are at /v1/nodes/ledger and /metrics",
    "CONFIG_DIR": "give the files of that folder to the import as well",
    "PERIOD_MONITORING_NODES": _WATCHED,
    "PERIOD_MONITORING_JOBS": _WATCHED,
    "PERIOD_LIFECYCLE": _WATCHED,
    "PERIOD_SCHEDULE": "a decision is made when something changes and when a plan says so, not on a grid",
    "PERIOD_MONITORING_NODES_FAIL_GRACE": _OUTAGE,
    "PERIOD_MONITORING_JOBS_FAIL_GRACE": _OUTAGE,
    "DELAY_POWON": "a node is on when it is ready in the cluster, not after a delay",
    "DELAY_POWOFF": "a node is off when its machine list says so, not after a delay",
    "RETRIES_POWER_OFF": "a node that does not go off is tried again with growing waits, without an end",
    "RECONSIDER_JOB_TIME": "pods wake nodes as soon as the scheduler found no room for them",
    "EXTRA_NODES_PERIOD": "spare room is looked at with every decision",
    "RECOVER_NODES_PERIOD": "what failed is tried again by `backoff`, and probed by `probe`",
    "COOLDOWN_SERVED_JOBS": "pods that ended are not kept",
    "NEGATIVE_RESOURCES_MEANS_INFINITE": "amounts are 0 or more; leave a resource out to put no limit on it",
    "CLUES_REQUEST_WAIT_TIMEOUT": "`penstock node request --wait` takes the time",
    "CLUES_XMLRPC": "the command line finds the server by --server or PENSTOCK_SERVER",
    "KUBERNETES_SERVER": _KUBE,
    "KUBERNETES_PODS_API_URL_PATH": _KUBE,
    "KUBERNETES_NODES_API_URL_PATH": _KUBE,
    "KUBERNETES_TOKEN": _KUBE,
    "KUBERNETES_VNODES": "give that file to the import as well",
    "IPMI_CMDLINE_POWON": _COMMANDS,
    "IPMI_CMDLINE_POWOFF": _COMMANDS,
    "IPMI_HOSTS_FILE": _COMMANDS,
    "WOL_CMDLINE_POWON": _COMMANDS,
    "WOL_CMDLINE_POWOFF": _COMMANDS,
    "WOL_HOSTS_FILE": _COMMANDS,
    "COMMANDLINE_CMDLINE_POWON": _COMMANDS,
    "COMMANDLINE_CMDLINE_POWOFF": _COMMANDS,
    "COMMANDLINE_HOSTS_FILE": _COMMANDS,
    "IM_VIRTUAL_CLUSTER_TOSCA": "machines are added as RADL and removed by id: a count in TOSCA can delete others",
    "IM_VIRTUAL_CLUSTER_REST_API": _IM,
    "IM_VIRTUAL_CLUSTER_REST_SSL": "the address says http or https; certificates are always checked",
    "IM_VIRTUAL_CLUSTER_REST_SSL_CA_CERTS": _IM,
    "IM_VIRTUAL_CLUSTER_AUTH_DATA_FILE": _IM,
    "IM_VIRTUAL_CLUSTER_INF_ID": _IM,
    "IM_VIRTUAL_CLUSTER_DB_CONNECTION_STRING": "golden images and stopped machines of CLUES are not taken over",
    "IM_VIRTUAL_CLUSTER_DROP_FAILING_VMS": "a machine that does not join in `boot_timeout` is removed and tried again",
    "IM_VIRTUAL_CLUSTER_FORGET_MISSING_VMS": "a machine that is not listed is gone only when the list is complete",
    **{
        f"ONE_{name}": _CLOUD
        for name in ("DROP_FAILING_VMS", "FORGET_MISSING_VMS", "GUESS_VMS_TIME", "TEMPLATE_ID", "USER_AUTH")
    },
}

#: CLUES's power managers with our drivers; a module path before the name is fine.
DRIVERS: Mapping[str, str] = {
    "ipmi": "command",
    "wol": "command",
    "commandline": "command",
    "im": "infrastructure-manager",
}

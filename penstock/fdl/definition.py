"""The definition: a service as OSCAR's clients want it back, and the same again when it is read back.

Three rules of real clients decide its shape: what they index must be there even when empty, `cpu` and `memory` are
text, and what they cannot parse when empty is left out. Secrets are blank, credentials are the word `hidden`,
passwords are gone. Our own keys appear only where the author wrote them.
"""

from __future__ import annotations

from typing import Any

from penstock.fdl.schema import PENSTOCK_KEYS, SERVICE
from penstock.fdl.sections import Section

DEFAULT_CPU = "0.2"
DEFAULT_MEMORY = "256Mi"

_AS_READ = (
    "name",
    "image",
    "total_cpu",
    "total_memory",
    "ephemeral_storage_request",
    "enable_gpu",
    "enable_sgx",
    "image_prefetch",
    "alpine",
    "file_stage_in",
    "log_level",
    "annotations",
    "labels",
    "synchronous",
    "vo",
    "visibility",
    "allowed_users",
    "isolation_level",
    "interlink_node_name",
)


def service_definition(values: Section, sections: Section, optional: Section) -> dict[str, Any]:
    """Put a definition together.

    `values` is the service as read, `sections` the parts that are always present and were checked elsewhere, `optional`
    those that are left out when empty.
    """
    environment = values["environment"]
    definition = {key: values[key] for key in _AS_READ} | {
        "cpu": values["cpu"] or DEFAULT_CPU,
        "memory": values["memory"] or DEFAULT_MEMORY,
        "environment": {
            "variables": dict(environment["variables"]),
            "secrets": dict.fromkeys(environment["secrets"], ""),
        },
        # Decided by the server, which fills them in when it answers.
        "bucket_list": [],
        "owner": "",
        "token": "",
    }
    definition |= sections
    definition |= {key: value for key, value in optional.items() if value}
    definition |= {key: values[key] for key in PENSTOCK_KEYS if values[key] is not None}
    return {key: definition[key] for key in SERVICE.keys if key in definition}

"""One service, from a file or from the API's JSON, into a draft: the rules that span several keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from penstock.errors import Forbidden, InvalidInput, NotFound
from penstock.fdl.definition import service_definition
from penstock.fdl.draft import Draft, Start
from penstock.fdl.loops import check_loops
from penstock.fdl.readers import record_places
from penstock.fdl.schema import DAY_S, SERVICE
from penstock.fdl.sections import (
    Section,
    check_scale,
    expose_definition,
    federation_definition,
    is_dns_label,
    kserve_definition,
    read_clusters,
    volume_section,
)
from penstock.fdl.storage import (
    Providers,
    hidden,
    io_definition,
    merged,
    mount_definition,
    read_providers,
    storage_io,
    warn_unresolved,
)
from penstock.fdl.tree import At, Kind, check_text, from_object
from penstock.model import Batch, BatchMode, Function, Limits, Resources, Scale, StorageIO, UploadOnFailure
from penstock.quantity import cpu_millis, memory_bytes

LONGEST_NAME = 39

#: Returns the text of a script file, given its path as the FDL file has it.
ReadScript = Callable[[str], str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the surroundings of a service say about it."""

    read_script: ReadScript | None = None
    require_image: bool = True
    require_script: bool = True
    cluster: str = ""
    storage_providers: Providers = dataclasses.field(default_factory=dict)
    clusters: dict[str, Section] = dataclasses.field(default_factory=dict)


def parse_service(obj: Mapping[str, Any], *, require_image: bool = True, require_script: bool = True) -> Draft:
    """Read the API's JSON body, in which `script` is the text itself.

    Raises InvalidInput with the field in `where`. With `require_image=False` (embedded mode) a missing image is a
    warning, with `require_script=False` a missing script is.
    """
    at = At(from_object(obj), "", [])
    if at.node.kind is not Kind.MAP:
        raise at.refuse(f"a service is a mapping (a JSON object), not {at.node.kind.value}")
    return read_service(at, Context(require_image=require_image, require_script=require_script))


def read_service(at: At, context: Context) -> Draft:
    """Read one service at its place. The draft's warnings are those that arose here."""
    first_warning = len(at.warnings)
    values = SERVICE(at)
    values["name"] = name = _checked_name(values["name"], at)
    hint = "; write the container image that has what the script needs"
    _require(values, "image", at, required=context.require_image, hint=hint)
    if any(letter.isspace() for letter in values["image"]):
        raise at.find("image").refuse("an image reference has no blanks")
    inputs = _entries(values, "input", at)
    outputs = _entries(values, "output", at)
    volume, volume_definition = volume_section(values["volume"], name, at.find("volume"))
    check_scale(values["synchronous"], at.find("synchronous"), unlimited_zero=True)
    providers = merged(context.storage_providers, read_providers(at.get("storage_providers")))
    for key, entries in (("input", inputs), ("output", outputs)):
        for (_, place), entry in zip(_places(values, key, at), entries, strict=True):
            warn_unresolved(entry, providers, place, is_input=key == "input")
    expose = expose_definition(values["expose"], at.find("expose"))
    kserve = kserve_definition(values["kserve"], at.find("kserve"))
    scriptless = kserve is not None or bool(expose.get("default_command"))
    script = _script(values["script"], at, context, required=not scriptless)
    sections = {
        "input": _io_definitions(values, "input", inputs, at),
        "output": _io_definitions(values, "output", outputs, at),
        "expose": expose,
        "mount": mount_definition(values["mount"], at.find("mount")),
        "cluster_id": context.cluster or values["cluster_id"],
        "volume_status": {"enabled": volume is not None} | ({"name": volume.name} if volume else {}),
    }
    optional = {
        "script": script,
        "image_pull_secrets": values["image_pull_secrets"],
        "storage_providers": hidden(providers),
        "clusters": context.clusters | read_clusters(at.get("clusters")),
        "volume": volume_definition,
        "kserve": kserve,
        "federation": federation_definition(values, at),
    }
    function = Function(
        name=name,
        image=values["image"],
        script=script,
        inputs=inputs,
        outputs=outputs,
        volume=volume,
        environment=values["environment"]["variables"],
        secrets=values["environment"]["secrets"],
        resources=_resources(values, at),
        synchronous=Scale(**{name: count for name, count in values["synchronous"].items() if count}),
        file_stage_in=values["file_stage_in"],
        log_level=values["log_level"],
        definition=service_definition(values, sections, optional),
        **_own_keys(values),
    )
    _refuse_loops(function, at.find("output"))
    return Draft(
        function=function,
        start=Start(values["start"] or "now"),
        cluster=context.cluster,
        storage_providers=providers,
        warnings=tuple(at.warnings[first_warning:]),
    )


def _checked_name(name: str, at: At) -> str:
    if not name:
        raise at.refuse("`name` is missing; every service needs one")
    if not is_dns_label(name, LONGEST_NAME):
        raise at.find("name").refuse(
            f"the name {name[:80]!r} is not usable: 1 to {LONGEST_NAME} lower-case letters, digits and hyphens, "
            "beginning and ending with a letter or digit (a DNS-1123 label)"
        )
    return name


def _require(values: Section, key: str, at: At, *, required: bool, hint: str = "") -> None:
    if values[key]:
        return
    message = f"`{key}` is missing{hint}"
    if required:
        raise at.refuse(message)
    at.warn(message)


def _script(written: str, at: At, context: Context, *, required: bool) -> str:
    """Return the script's text with LF line ends. A value of several lines is the text itself, also in a file."""
    place = at.find("script")
    path = written.strip()
    if not path:
        if required:
            hint = "; write the script's path, or set `expose.default_command` to run the image's own command"
            _require({"script": ""}, "script", at, required=context.require_script, hint=hint)
        return ""
    script = written
    if context.read_script is not None and "\n" not in path and "\r" not in path:
        try:
            script = context.read_script(path)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise place.refuse(f"the script {path[:80]!r} cannot be read: {reason}") from error
        except (NotFound, Forbidden, InvalidInput) as error:
            raise place.refuse(f"the script {path[:80]!r} cannot be read: {error.message}") from error
        if not script.strip():
            raise place.refuse(f"the script {path[:80]!r} is empty")
    return check_text(script, place.where).replace("\r\n", "\n").replace("\r", "\n")


def _entries(values: Section, key: str, at: At) -> tuple[StorageIO, ...]:
    return tuple(
        storage_io(entry, values["name"], place, is_input=key == "input") for entry, place in _places(values, key, at)
    )


def _places(values: Section, key: str, at: At) -> list[tuple[Section, At]]:
    """Pair the entries of `input` or `output` with their places."""
    return list(zip(values[key], record_places(at.get(key)), strict=True))


def _io_definitions(values: Section, key: str, entries: tuple[StorageIO, ...], at: At) -> list[Section]:
    pairs = zip(_places(values, key, at), entries, strict=True)
    return [io_definition(entry, io, place) for (entry, place), io in pairs]


def _resources(values: Section, at: At) -> Resources:
    """Return what was said; the small defaults of OSCAR stand in the definition alone."""
    cpu, memory = values["cpu"], values["memory"]
    return Resources(
        cpu_millis=cpu_millis(cpu, where=at.find("cpu").where) if cpu else None,
        memory_bytes=memory_bytes(memory, where=at.find("memory").where) if memory else None,
        gpu=values["enable_gpu"],
    )


def _own_keys(values: Section) -> dict[str, Any]:
    """Return the fields of `Function` that Penstock's own keys decide."""
    given = {key: values[key] for key in ("retries", "max_hops") if values[key] is not None}
    limits = ("concurrency", "rate", "priority", "weight")
    return given | {
        "limits": Limits(**{key: values[key] for key in limits if values[key] is not None}),
        "batch": _batch(values["batch"]),
        "deadline_s": values["deadline"] or DAY_S,
        "upload_on_failure": UploadOnFailure(values["upload_on_failure"] or "always"),
    }


def _batch(value: Any) -> Batch:
    if value is None or value == "single":
        return Batch()
    if value == "auto":
        return Batch(mode=BatchMode.AUTO)
    if value["max_items"] == 1:  # one item each is what single means, whatever else is said
        return Batch()
    return Batch(
        mode=BatchMode.LIST,
        max_items=value["max_items"],
        max_bytes=value["max_bytes"],
        linger_s=value["linger"],
    )


def _refuse_loops(function: Function, at: At) -> None:
    try:
        warnings = check_loops(function)
    except InvalidInput as error:
        raise at.refuse(error.message) from error
    for warning in warnings:
        at.warn(warning)

"""An FDL file: the envelope around the services, and refusals of what looks like one and is not."""

from __future__ import annotations

import dataclasses

from penstock.fdl.draft import Document, Draft
from penstock.fdl.readers import key_name, mapping
from penstock.fdl.schema import ENVELOPE, SECTIONS, SERVICE
from penstock.fdl.sections import read_clusters
from penstock.fdl.service import Context, ReadScript, read_service
from penstock.fdl.storage import merged, read_providers
from penstock.fdl.tree import At, Kind
from penstock.fdl.yaml_text import read_yaml


def parse_document(
    text: str | bytes,
    *,
    read_script: ReadScript | None,
    require_image: bool = True,
    require_script: bool = True,
) -> Document:
    """Read an FDL file.

    `read_script` returns the text of a script, given its path as the file has it; what it raises (OSError,
    UnicodeError, NotFound, Forbidden, InvalidInput) becomes InvalidInput at the script's line. With None each `script`
    is the text itself. With `require_image=False` (embedded mode) a missing image is a warning, with
    `require_script=False` a missing script is. Raises InvalidInput, whose `where` has the field and line, and
    Unsupported without libyaml.
    """
    warnings: list[str] = []
    top = At(read_yaml(text), "", warnings)
    _check_envelope(top)
    functions = top.get("functions")
    for key, member in top.members():
        if key.lower() not in ENVELOPE:
            member.warn(f"unknown key {key_name(key)}, ignored")
        elif key.lower() == "scar":
            member.warn("`scar` is for SCAR and ignored")
    nested = functions.get("storage_providers")
    if not nested.node.empty:
        nested.warn("`storage_providers` belongs to the top of the file, beside `functions`")
    context = Context(
        read_script=read_script,
        require_image=require_image,
        require_script=require_script,
        storage_providers=merged(read_providers(nested), read_providers(top.get("storage_providers"))),
        clusters=read_clusters(top.get("clusters")),
    )
    _check_sections(functions)
    drafts = _services(functions.get("oscar"), context)
    if not drafts:
        functions.warn("the file defines no function of Penstock or OSCAR")
    return Document(
        functions=tuple(drafts),
        warnings=tuple(warnings),
        storage_providers=context.storage_providers,
        clusters=context.clusters,
    )


def _check_envelope(top: At) -> None:
    """Refuse what is no FDL file, saying what it looks like."""
    if top.node.kind is Kind.NULL:
        raise top.refuse("the file is empty; an FDL file begins with `functions:`")
    if top.node.kind is not Kind.MAP:
        raise top.refuse(f"an FDL file is a mapping with `functions`, not {top.node.kind.value}")
    keys = {key.lower() for key, _ in top.members()}
    if "functions" in keys:
        if len(keys) != len(top.node.entries):
            raise top.refuse("a section occurs twice, in different case; keep one of them")
        return
    if {"apiversion", "kind"} <= keys:
        raise top.refuse("this is a Kubernetes manifest, not an FDL file; apply it with kubectl")
    if "name" in keys and keys & {"image", "script", "input", "container"}:
        raise top.refuse("this is a single service; put it under `functions:`, `oscar:`, `- <cluster id>:`")
    raise top.refuse("`functions` is missing; an FDL file has its services under `functions:`, `oscar:`")


def _check_sections(functions: At) -> None:
    if functions.node.kind is Kind.NULL:
        return
    if functions.node.kind is not Kind.MAP:
        raise functions.refuse(
            f"must be a mapping with `oscar`, not {functions.node.kind.value}; write `functions:`, and below it "
            "`oscar:` with a list of services"
        )
    seen = set()
    for key, section in functions.members():
        if key.lower() in seen:
            raise section.refuse("the section occurs twice, in different case; keep one of them")
        seen.add(key.lower())
        if key.lower() not in SECTIONS:
            section.warn(f"unknown key {key_name(key)}, ignored; services stand under `oscar`")
    aws = functions.get("aws")
    if aws.node.kind not in {Kind.NULL, Kind.LIST}:
        raise aws.refuse(f"must be a list of functions, not {aws.node.kind.value}")
    for function in aws.elements():
        if not function.node.empty and mapping(function).get("lambda").node.kind is not Kind.MAP:
            raise function.refuse("a function for AWS needs a `lambda` mapping")
    if not aws.node.empty:
        aws.warn("functions for AWS are ignored; deploy them with SCAR")


def _services(section: At, context: Context) -> list[Draft]:
    if section.node.empty:
        return []
    if section.node.kind is not Kind.LIST:
        raise section.refuse(
            f"must be a list, not {section.node.kind.value}; put `- ` before each cluster id, as in `- my-cluster:`"
        )
    drafts: list[Draft] = []
    clusters_of: dict[str, set[str]] = {}
    for element in section.elements():
        if element.node.kind is not Kind.MAP:
            raise element.refuse(f"must be a mapping `<cluster id>: <service>`, not {element.node.kind.value}")
        for cluster, place in element.members():
            if place.node.kind is not Kind.MAP:
                raise place.refuse(_not_a_service(cluster, place, element))
            draft = read_service(place, dataclasses.replace(context, cluster=cluster))
            name = draft.function.name
            others = clusters_of.setdefault(name, set())
            if cluster in others:
                raise place.find("name").refuse(f"the name {name!r} is taken by another service of this file")
            if others:
                place.find("name").warn(
                    f"the name {name!r} occurs on several clusters; here they are the same function"
                )
            others.add(cluster)
            drafts.append(draft)
    return drafts


def _not_a_service(key: str, place: At, element: At) -> str:
    known = {name.lower() for name in SERVICE.keys}
    siblings = [name for name, _ in element.members()]
    if len(siblings) > 1 and any(name.lower() in known for name in siblings):
        return (
            "the service has no cluster id, or stands as far left as it: write `- <cluster id>:` and indent "
            f"{siblings[-1][:60]!r} and its neighbours below it"
        )
    return f"{key[:60]!r} must be a cluster id with a service (a mapping) below it, not {place.node.kind.value}"

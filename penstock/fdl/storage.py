"""Where inputs come from and outputs go: provider references, paths, and the credentials that providers carry."""

from __future__ import annotations

import re
from typing import Any

from penstock.fdl.readers import alternatives, mapping
from penstock.fdl.schema import CREDENTIALS, HIDDEN, PROVIDERS
from penstock.fdl.tree import At
from penstock.model import SYSTEM_BUCKET, StorageIO
from penstock.model.function import OWN_STORE

#: `storage_providers`: {type: {id: {field: value}}}.
Providers = dict[str, dict[str, dict[str, Any]]]

#: Provider types whose paths begin with a bucket.
BUCKETED = frozenset({"minio", "local", "s3"})
_INPUTS = ("minio", "local", "webdav", "rucio")
_MOUNTS = ("minio", "local", "s3", "webdav")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ADDRESS = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
#: S3's limit on a key, in bytes; the folder must leave room for a name.
_LONGEST_FOLDER = 900


def provider_reference(written: str, at: At) -> tuple[str, str]:
    """Split `type[.id]` into the type in lower case and the id (`default` when absent)."""
    kind, dot, identity = written.partition(".")
    kind = kind.strip().lower()
    if kind not in PROVIDERS:
        shown = repr(written[:60]) if written else "no storage provider"
        raise at.refuse(f"{shown} is not known; write {alternatives(sorted(PROVIDERS))}, or one of them with .<id>")
    identity = identity.strip() if dot else "default"
    if not identity:
        raise at.refuse(f"{written!r} ends in a dot; write the id behind it or leave the dot out")
    if kind == "local" and identity != "default":
        raise at.refuse("`local` is the product's own store and has no ids; write `local`")
    return kind, identity


def canonical_reference(written: str, at: At) -> str:
    """Return the reference as definitions have it: as written, the type in lower case."""
    kind, identity = provider_reference(written, at)
    return f"{kind}.{identity}" if "." in written else kind


def check_bucket(name: str, at: At, hint: str = "") -> str:
    """Return a bucket name that every S3 store accepts. Raises InvalidInput, with `hint` behind the reason."""
    if not _BUCKET.fullmatch(name) or ".." in name or _ADDRESS.fullmatch(name):
        raise at.refuse(
            f"{name[:80]!r} cannot be a bucket: 3 to 63 lower-case letters, digits, dots and hyphens, beginning and "
            f"ending with a letter or digit{hint}"
        )
    if name == SYSTEM_BUCKET:
        raise at.refuse(f"the bucket {name!r} belongs to the platform; choose another")
    return name


def split_path(path: str, kind: str, service: str, at: At) -> tuple[str, str]:
    """Return bucket and folder. A bucketed path without slash is a folder in the bucket named like the service."""
    trimmed = path.strip(" /")
    if not trimmed:
        raise at.refuse("`path` is empty; write bucket/folder")
    if _CONTROL.search(trimmed):
        raise at.refuse("`path` holds a control character")
    segments = trimmed.split("/")
    if any(segment in {"", ".", ".."} for segment in segments):
        raise at.refuse(f"{trimmed[:80]!r} has an empty, `.` or `..` part, which no key may have")
    if kind not in BUCKETED:
        return segments[0], "/".join(segments[1:])
    if len(segments) > 1:
        bucket, folder, hint = segments[0], "/".join(segments[1:]), ""
    else:
        bucket, folder, hint = service, trimmed, "; without a slash in `path` the service's name is the bucket"
    if len(folder.encode()) > _LONGEST_FOLDER:
        raise at.refuse(f"the folder is longer than {_LONGEST_FOLDER} bytes")
    return check_bucket(bucket, at, hint), folder


def storage_io(entry: dict[str, Any], service: str, at: At, *, is_input: bool) -> StorageIO:
    """Turn one `input` or `output` entry into the model's type. Raises InvalidInput; warns about what never fires."""
    kind, identity = provider_reference(entry["storage_provider"], at.find("storage_provider"))
    if is_input:
        _check_input(kind, identity, at.find("storage_provider"))
    if entry["options"]:
        at.find("options").warn("`options` acts on a `mount` only")
    bucket, folder = split_path(entry["path"], kind, service, at.find("path"))
    return StorageIO(
        provider=kind,
        provider_id=identity,
        bucket=bucket,
        folder=folder,
        prefix=tuple(entry["prefix"]),
        suffix=tuple(entry["suffix"]),
    )


def _check_input(kind: str, identity: str, at: At) -> None:
    if kind not in _INPUTS:
        raise at.refuse(f"inputs from {kind!r} are not supported; write {alternatives(_INPUTS)}")
    if kind not in OWN_STORE:
        at.warn(f"objects of {kind!r} do not trigger by themselves: something must post their events to the function")
    elif identity != "default":
        at.warn(f"the input triggers only if 'minio.{identity}' is this platform's own store")


def io_definition(entry: dict[str, Any], io: StorageIO, at: At) -> dict[str, Any]:
    """Return the entry as clients want it back."""
    written = {"storage_provider": canonical_reference(entry["storage_provider"], at), "path": io.path}
    return written | {key: entry[key] for key in ("prefix", "suffix", "options") if entry[key]}


def mount_definition(entry: dict[str, Any] | None, at: At) -> dict[str, Any]:
    if entry is None or not (entry["storage_provider"] or entry["path"].strip(" /")):
        return {"storage_provider": "", "path": ""}
    kind, _ = provider_reference(entry["storage_provider"], at.find("storage_provider"))
    if kind not in _MOUNTS:
        raise at.find("storage_provider").refuse(f"{kind!r} cannot be mounted; write {alternatives(_MOUNTS)}")
    path = entry["path"].strip(" /")
    if not path:
        raise at.find("path").refuse("`path` is empty; write the bucket to mount")
    # Unlike an input, a mount may be a whole bucket: the path's first part is one in any case.
    split_path(path if "/" in path or kind not in BUCKETED else f"{path}/all", kind, "", at.find("path"))
    written = {"storage_provider": canonical_reference(entry["storage_provider"], at), "path": path}
    return written | ({"options": entry["options"]} if entry["options"] else {})


def read_providers(at: At) -> Providers:
    """Read `storage_providers`, credentials included. Unknown types are refused, nulls skipped."""
    if at.node.empty:
        return {}
    found: Providers = {}
    for written, of_type in mapping(at).members():
        kind = written.strip().lower()
        if kind not in PROVIDERS:
            raise of_type.refuse(f"{written[:60]!r} is not a provider type; write {alternatives(sorted(PROVIDERS))}")
        if of_type.node.empty:
            continue
        for identity, fields in mapping(of_type).members():
            if not fields.node.empty:
                found.setdefault(kind, {})[identity] = PROVIDERS[kind](fields)
    return found


def merged(base: Providers, over: Providers) -> Providers:
    """Return both; where both have an entry, `over` wins as a whole."""
    result = {kind: dict(entries) for kind, entries in base.items()}
    for kind, entries in over.items():
        result.setdefault(kind, {}).update(entries)
    return result


def hidden(providers: Providers) -> Providers:
    """Return a copy that may be shown: every credential that is set becomes the word `hidden`."""
    return {
        kind: {
            identity: {name: HIDDEN if name in CREDENTIALS and value else value for name, value in fields.items()}
            for identity, fields in entries.items()
        }
        for kind, entries in providers.items()
    }


def warn_unresolved(io: StorageIO, providers: Providers, at: At, *, is_input: bool) -> None:
    """Warn about a provider whose entry is not in the file: nothing can be sent there without its keys."""
    if not (io.own_store or io.provider_id in providers.get(io.provider, {})):
        follows = "nothing is known of it" if is_input else "outputs there will be refused"
        at.warn(f"'{io.reference}' has no entry in `storage_providers`; {follows}")

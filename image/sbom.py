"""Writes a software bill of materials (CycloneDX 1.5, JSON) of the environment that the image ships.

It runs while the image is built, after everything is installed, and lists what is really there with the licence that
each package states and, where the wheel is at hand, the wheel's SHA-256, which is also what the lock file pins. It
needs nothing but the standard library, and the same contents give the same bytes: the time comes from
SOURCE_DATE_EPOCH, and the serial number is made from the components.

    python sbom.py SITE_PACKAGES WHEELS > sbom.cdx.json
"""

# ruff: noqa: INP001
# A program of its own inside the image's build; nothing imports it.
from __future__ import annotations

import datetime as dt
import hashlib
import importlib.metadata
import json
import os
import re
import sys
import uuid
from pathlib import Path
from typing import Any

Json = dict[str, Any]
PRODUCT = "penstock"


def normalised(name: str) -> str:
    """One spelling of a project's name, as package indexes compare them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def digests(wheels: Path) -> dict[tuple[str, str], str]:
    """SHA-256 of each wheel by name and version."""
    found = {}
    for wheel in sorted(wheels.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        found[normalised(name), version] = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return found


def component(distribution: importlib.metadata.Distribution, wheels: dict[tuple[str, str], str]) -> Json:
    name, version = normalised(distribution.metadata["Name"]), distribution.version
    reference = f"pkg:pypi/{name}@{version}"
    made: Json = {"type": "library", "bom-ref": reference, "name": name, "version": version, "purl": reference}
    licence = stated_licence(distribution.metadata)
    if licence:
        made["licenses"] = [licence]
    # The product's own wheel is built here; its digest says nothing that the image's own does not.
    if name != PRODUCT and (name, version) in wheels:
        made["hashes"] = [{"alg": "SHA-256", "content": wheels[name, version]}]
    return made


def stated_licence(metadata: importlib.metadata.PackageMetadata) -> Json:
    """What the package says of its licence, {} = nothing. Only the modern field is an SPDX expression."""
    known = metadata.json
    if known.get("license_expression"):
        return {"expression": known["license_expression"]}
    classified = [
        one.rpartition(" :: ")[2]
        for one in known.get("classifier", ())
        if one.startswith("License :: ") and "::" in one
    ]
    stated = str(known.get("license", "")).strip()
    # Some packages put the whole text of their licence there.
    name = ", ".join(classified) or (stated if "\n" not in stated and len(stated) <= 100 else "")
    return {"license": {"name": name}} if name else {}


def requirements(distribution: importlib.metadata.Distribution, there: set[str]) -> list[str]:
    """Names of what it needs and is there."""
    wanted = {normalised(match[0]) for one in distribution.requires or () if (match := re.match(r"[\w.-]+", one))}
    return sorted(wanted & there)


def document(folder: Path, wheels: Path, epoch: int) -> Json:
    found = {normalised(one.metadata["Name"]): one for one in importlib.metadata.distributions(path=[str(folder)])}
    known = digests(wheels)
    components = {name: component(one, known) for name, one in sorted(found.items())}
    edges = [
        {
            "ref": components[name]["bom-ref"],
            "dependsOn": [components[other]["bom-ref"] for other in requirements(one, set(found))],
        }
        for name, one in sorted(found.items())
    ]
    product = components.pop(PRODUCT) | {"type": "application"}
    content = json.dumps([product, *components.values()], sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {
            "timestamp": dt.datetime.fromtimestamp(epoch, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": product,
        },
        "components": list(components.values()),
        "dependencies": edges,
    }


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        sys.stderr.write("usage: sbom.py SITE_PACKAGES WHEELS\n")
        return 2
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or 0)
    json.dump(document(Path(arguments[0]), Path(arguments[1]), epoch), sys.stdout, indent=1)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

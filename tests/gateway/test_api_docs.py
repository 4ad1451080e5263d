"""The reference names every route and every error code, and nothing that is gone."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.api.app import make_app
from gateway.api.errors import STATUS
from gateway.api.gate import Gate
from gateway.embedded import Embedded

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
REFERENCE = FOLDER / "api.md"


def routes(platform: Embedded) -> set[str]:
    app = make_app(platform.services, Gate(platform.services.metrics, most=1, patience_s=1))
    found = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None}
    # HEAD comes with every GET; only of objects it says something of its own.
    return {f"{method} {path}" for method, path in found if method != "HEAD" or path.endswith("{key}")}


async def test_every_route_is_documented_and_no_other(platform: Embedded) -> None:
    text = "".join((FOLDER / name).read_text(encoding="utf-8") for name in ("api.md", "oscar-api.md", "nodes-api.md"))
    documented = re.findall(r"^\| `((?:GET|HEAD|PUT|POST|DELETE) [^`\[]+)", text, re.MULTILINE)
    assert sorted(documented) == sorted(routes(platform))


def test_every_error_code_is_documented_with_its_status() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\d{3}) \| ([^|]+) \|", text, re.MULTILINE))
    for code, status in STATUS.items():
        assert f"`{code}`" in rows[str(status)], code

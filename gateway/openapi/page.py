"""The document as a page for people: plain HTML, made once, without script, style sheet or font from elsewhere."""

from __future__ import annotations

import functools
import html
import json
from typing import Any

from gateway.openapi.document import document
from penstock import __version__

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }
summary { cursor: pointer; padding: .35rem 0; }
summary b { display: inline-block; min-width: 4.5rem; }
code, pre { font: 14px/1.4 ui-monospace, monospace; }
pre { overflow: auto; padding: .5rem; border: 1px solid; border-radius: .3rem; }
table { border-collapse: collapse; }
td, th { border: 1px solid; padding: .2rem .5rem; text-align: left; vertical-align: top; }
"""
#: Nothing is loaded and nothing is run; the one style sheet stands in the page.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def _frame(title: str, body: str) -> bytes:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body>{body}</body></html>"
    ).encode()


@functools.cache
def welcome() -> bytes:
    body = (
        f"<main><h1>Penstock {html.escape(__version__)}</h1><p>This is a server of Penstock. Its interface is "
        '<a href="/ui/api">described here</a>, for programs in <a href="/openapi.json">/openapi.json</a>. Use it with '
        "the command <code>penstock</code>, with <code>penstock.Client</code>, or with any client of OSCAR.</p></main>"
    )
    return _frame("Penstock", body)


@functools.cache
def page() -> bytes:
    described = document()
    parts = ["<main><h1>Interface of Penstock</h1>", f"<p>{html.escape(described['info']['description'])}</p>"]
    for tag in described["tags"]:
        parts.append(f"<h2>{html.escape(tag['name'])}</h2>")
        for path, methods in described["paths"].items():
            parts += [_operation(path, method, one) for method, one in methods.items() if tag["name"] in one["tags"]]
    parts.append("<h2>Shapes</h2>")
    for name, schema in sorted(described["components"]["schemas"].items()):
        text = html.escape(json.dumps(schema, indent=1))
        parts.append(f'<details id="{name}"><summary>{name}</summary><pre>{text}</pre></details>')
    return _frame("Interface of Penstock", "".join([*parts, "</main>"]))


def _operation(path: str, method: str, one: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{status}</code></td><td>{html.escape(answer['description'])} {_shape(answer)}</td></tr>"
        for status, answer in one["responses"].items()
    )
    given = "".join(
        f"<li><code>{html.escape(item['name'])}</code> ({item['in']}) {html.escape(item.get('description', ''))}</li>"
        for item in one["parameters"]
    )
    taken = f"<p>Body: {_shape(one['requestBody']) or 'any bytes'}</p>" if "requestBody" in one else ""
    return (
        f"<details><summary><b>{method.upper()}</b> <code>{html.escape(path)}</code> {html.escape(one['summary'])}"
        f"</summary><p>{html.escape(one['description'])}</p>{f'<ul>{given}</ul>' if given else ''}{taken}"
        f"<table><tr><th>Status</th><th>Meaning</th></tr>{rows}</table></details>"
    )


def _shape(part: dict[str, Any]) -> str:
    """A link to the shape of a JSON body."""
    schema = part.get("content", {}).get("application/json", {}).get("schema", {})
    many = "list of " if "items" in schema else ""
    reference = schema.get("$ref") or schema.get("items", {}).get("$ref", "")
    name = reference.rpartition("/")[2]
    return f'{many}<a href="#{name}">{name}</a>' if name else ""

"""Pages for people: the dashboard at ``/``, and ``/docs``, which is ``openapi.json`` made readable. Nothing is loaded
from elsewhere."""
from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, send_file

HERE = Path(__file__).parent
OPENAPI = HERE / "openapi.json"
DASHBOARD = HERE / "dashboard"

NAME = "pages"
"""Of the blueprint."""

MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml",
               ".png": "image/png", ".ico": "image/x-icon", ".json": "application/json"}
"""Of the dashboard's files; what is not among them is not served."""

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
code,pre{font:14px/1.45 ui-monospace,monospace;background:#f3f4f6;border-radius:4px}
code{padding:.1em .3em}pre{padding:.8em 1em;overflow-x:auto}
h2{margin-top:2.5rem;padding-top:.5rem;border-top:1px solid #ddd}h2 code{background:none;padding:0}
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.3rem .8rem .3rem 0;text-align:left;vertical-align:top}
@media(prefers-color-scheme:dark){body{color:#e5e7eb;background:#111827}code,pre{background:#1f2937}
h2{border-color:#374151}a{color:#93c5fd}}
"""


def blueprint(dashboard: Path = DASHBOARD) -> Blueprint:
    """The routes; without a dashboard there is nothing at ``/``."""
    routes = Blueprint(NAME, __name__)
    # A rule for each file, so that an unknown path stays unknown, whatever the method.
    for path in sorted(dashboard.rglob("*")):
        if path.suffix in MEDIA_TYPES and path.is_file():
            name = path.relative_to(dashboard).as_posix()
            # Asked for anew each time, and answered with "not modified": no page of an earlier version is shown.
            send = partial(send_file, path.resolve(), MEDIA_TYPES[path.suffix], max_age=0)
            endpoint = name.replace(".", "-")
            routes.get(f"/{name}", endpoint=endpoint)(send)
            if name == "index.html":
                routes.get("/", endpoint=endpoint)(send)

    @routes.get("/openapi.json")
    def openapi() -> Response:
        return send_file(OPENAPI.resolve(), "application/json", max_age=0)

    @routes.get("/docs")
    def docs() -> Response:
        return Response(page(json.loads(OPENAPI.read_text(encoding="utf-8"))), mimetype="text/html")

    return routes


def page(document: dict[str, Any]) -> str:
    """An OpenAPI document as HTML."""
    title, body = escape(document["info"]["title"]), "\n".join(_body(document))
    return (f"<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>"
            f"<meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head>\n"
            f"<body>\n<h1>{title}</h1>\n{body}\n</body></html>\n")


def _body(document: dict[str, Any]) -> Iterator[str]:
    yield f"<p>{_prose(document['info']['description'])}</p>"
    yield "<p>For programs: <a href=\"openapi.json\">openapi.json</a>.</p>"
    operations = [(path, method.upper(), operation) for path, methods in document["paths"].items()
                  for method, operation in methods.items()]
    yield "<table>"
    for path, method, operation in operations:
        yield (f"<tr><td><a href=\"#{_anchor(method, path)}\"><code>{method} {escape(path)}</code></a></td>"
               f"<td>{_prose(operation['summary'])}</td></tr>")
    yield "</table>"
    for path, method, operation in operations:
        yield from _operation(document, path, method, operation)


def _operation(document: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"<h2 id=\"{_anchor(method, path)}\"><code>{method} {escape(path)}</code></h2>"
    yield f"<p>{_prose(operation['summary'])}. {_prose(operation.get('description', ''))}</p>"
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = _resolved(document, content["schema"])
        yield "<table><tr><th>key</th><th>type</th><th>value</th></tr>"
        for name, value in schema["properties"].items():
            needed = ", required" if name in schema.get("required", ()) else ""
            yield (f"<tr><td><code>{escape(name)}</code></td><td>{escape(_type(value))}{needed}</td>"
                   f"<td>{_prose(value.get('description', ''))}</td></tr>")
        yield "</table>"
        yield from _example("Request", content)
    yield "<table><tr><th>status</th><th>answer</th></tr>"
    for status, response in operation["responses"].items():
        yield f"<tr><td>{status}</td><td>{_prose(_resolved(document, response)['description'])}</td></tr>"
    yield "</table>"
    for content in operation["responses"]["200"].get("content", {}).values():
        yield from _example("Answer", content)


def _example(what: str, content: dict[str, Any]) -> Iterator[str]:
    if "example" in content:
        example = content["example"]
        shown = example if isinstance(example, str) else json.dumps(example, indent=1)
        yield f"<p>{what}, for example:</p>\n<pre>{escape(shown)}</pre>"


def _resolved(document: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """What a reference points to; anything else as it is."""
    if "$ref" in value:
        target: dict[str, Any] = document
        for part in value["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return target
    return value


def _type(schema: dict[str, Any]) -> str:
    if "oneOf" in schema:
        return " or ".join(map(_type, schema["oneOf"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if "enum" in schema:
        return " or ".join(f'"{value}"' for value in schema["enum"])
    kind = schema.get("type", "anything")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _prose(text: str) -> str:
    """Escaped, and what stands between backquotes as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))


def _anchor(method: str, path: str) -> str:
    return method.lower() + path.replace("/", "-")

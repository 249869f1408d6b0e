"""The contract for people under ``/docs``: the OpenAPI document as a plain page, with nothing loaded from elsewhere."""

import json
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h2{margin-top:2.5rem;border-top:1px solid #ccc;padding-top:1rem}code,pre{font:14px/1.45 ui-monospace,monospace}
pre{background:#f4f4f2;padding:.8rem;overflow:auto}table{border-collapse:collapse;width:100%}
td,th{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #eee}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}pre{background:#242424}td,th{border-color:#333}}
"""
_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}


def install(app: FastAPI) -> None:
    """Serve the page."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page(app.openapi()), headers=_HEADERS)


def page(contract: dict[str, Any]) -> str:
    """Return the OpenAPI document as HTML."""
    info = contract["info"]
    calls = [
        _call(contract, method, path, operation)
        for path, operations in contract["paths"].items()
        for method, operation in operations.items()
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])} API</title>"
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style>"
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><pre>{escape(info['description'].strip())}</pre>"
        "<p>For programs: <a href=/openapi.json>/openapi.json</a></p>" + "".join(calls)
    )


def _call(contract: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation.get('description', ''))}</p>"]
    parameters = [
        (f"{parameter['name']} ({parameter['in']})", parameter.get("description", ""))
        for parameter in operation.get("parameters", ())
    ]
    if parameters:
        parts.append(_table(parameters))
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body is not None:
        schema = _resolve(contract, body)
        required = schema.get("required", ())
        parts.append(
            _table(
                (name if name in required else f"{name}?", _about(contract, field))
                for name, field in schema.get("properties", {}).items()
            )
        )
        parts += [_example(example) for example in schema.get("examples", ())]
    responses = operation["responses"].items()
    parts.append(_table((status, response.get("description", "")) for status, response in responses))
    return "".join(parts)


def _about(contract: dict[str, Any], field: dict[str, Any]) -> str:
    fields = _resolve(contract, field).get("properties")
    described = str(field.get("description", ""))
    return f"{described} {{{', '.join(fields)}}}".strip() if fields else described


def _resolve(contract: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = contract["components"]["schemas"][name] if name else schema
    return found


def _example(example: object) -> str:
    return f"<pre>{escape(json.dumps(example, indent=2, ensure_ascii=False))}</pre>"


def _table(rows: Any) -> str:
    cells = (f"<tr><td><code>{escape(str(left))}</code><td>{escape(str(right))}" for left, right in rows)
    return f"<table>{''.join(cells)}</table>"

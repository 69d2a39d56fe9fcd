"""The OpenAPI document as a page for people: plain HTML without script, which loads nothing and works anywhere.

Why no bundle of Swagger UI or Redoc: it would be megabytes of script on the origin where people sign in to connect
their accounts, and the packages on PyPI that carry one are old, need a web framework, or unpack to nine megabytes. A
reader of a reference needs text and links.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["POLICY", "render"]

_STYLE: Final = (
    ":root{color-scheme:light dark;--line:color-mix(in srgb,currentColor 25%,transparent)}"
    "body{font:1rem/1.55 system-ui,sans-serif;margin:0;display:grid;grid-template-columns:17rem minmax(0,1fr)}"
    "html{background:Canvas;color:CanvasText}a{color:light-dark(#0645ad,#9db7ff)}"
    "nav{border-right:1px solid var(--line);padding:1.5rem;position:sticky;top:0;max-height:100vh;overflow:auto;"
    "box-sizing:border-box}nav ul{list-style:none;padding:0;margin:0 0 1rem}nav li{margin:.25rem 0}"
    "main{padding:1.5rem 2.5rem 6rem;max-width:60rem}h1{font-size:1.8rem}h2{margin-top:3rem}"
    "article{border:1px solid var(--line);border-radius:.5rem;padding:0 1.2rem 1rem;margin:1.2rem 0}"
    "h3{margin:1rem 0 .3rem;overflow-wrap:anywhere}h4{margin:1rem 0 .3rem}code{font-size:.92em;overflow-wrap:anywhere}"
    "pre{overflow:auto;border-left:3px solid var(--line);padding-left:.8rem}"
    ".method{border:1px solid;border-radius:.3rem;padding:.05rem .4rem;margin-right:.5rem;font-size:.8em}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.3rem .6rem .3rem 0;"
    "border-top:1px solid var(--line)}th{font-weight:600;white-space:nowrap}"
    "@media(max-width:50rem){body{display:block}nav{position:static;max-height:none;border-right:0}main{padding:1rem}}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_METHODS: Final = ("get", "post", "put", "patch", "delete")
_CODE: Final = re.compile(r"`([^`]+)`")
_STRONG: Final = re.compile(r"\*\*([^*]+)\*\*")
_LINK: Final = re.compile(r"https://[^\s;<]+[^\s;<.]")
_BOUNDS: Final = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "maxProperties": "at most {} members",
    "default": "by default {}",
}


def render(document: Mapping[str, Any]) -> str:
    """Return the page of an OpenAPI document."""
    by_tag: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                by_tag[item[method]["tags"][0]].append((method, path, item[method]))
    schemas = document["components"]["schemas"]
    info = document["info"]
    title = f"{info['title']} {info['version']}: reference of the HTTP API"
    sections = "".join(_section(tag, operations, document) for tag, operations in by_tag.items())
    things = "".join(_thing(name, schema) for name, schema in schemas.items())
    nav = "".join(f'<li><a href="#{_anchor(tag)}">{html.escape(tag)}</a></li>' for tag in by_tag)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body>"
        f'<nav aria-label="Contents"><ul>{nav}<li><a href="#schemas">Schemas</a></li></ul>'
        '<a href="openapi.json">openapi.json</a></nav>\n'
        f"<main><h1>{html.escape(title)}</h1>{_paragraphs(info['description'])}{sections}"
        f'<h2 id="schemas">Schemas</h2>{things}</main></body></html>\n'
    )


def _section(tag: str, operations: Iterable[tuple[str, str, Mapping[str, Any]]], document: Mapping[str, Any]) -> str:
    articles = "".join(_operation(method, path, operation, document) for method, path, operation in operations)
    return f'<section><h2 id="{_anchor(tag)}">{html.escape(tag)}</h2>{articles}</section>\n'


def _operation(method: str, path: str, operation: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    parts = [
        f'<article id="{_anchor(operation["operationId"])}">',
        f'<h3><span class="method">{method.upper()}</span><code>{html.escape(path)}</code></h3>',
        f"<p><strong>{html.escape(operation['summary'])}.</strong></p>",
        _paragraphs(operation.get("description", "")),
    ]
    if operation.get("parameters"):
        parts.append(f"<h4>Parameters</h4>{_table(map(_parameter_row, operation['parameters']))}")
    if "requestBody" in operation:
        kinds = "".join(
            f"<p>{_kind(content['schema'])} as <code>{html.escape(media)}</code></p>{_example(content)}"
            for media, content in operation["requestBody"]["content"].items()
        )
        parts.append(f"<h4>Body</h4>{kinds}")
    rows = (_answer_row(status, answer, document) for status, answer in operation["responses"].items())
    parts.append(f"<h4>Answers</h4>{_table(rows)}</article>\n")
    return "".join(parts)


def _example(content: Mapping[str, Any]) -> str:
    if "example" not in content:
        return ""
    return f"<pre><code>{html.escape(json.dumps(content['example'], indent=2))}</code></pre>"


def _parameter_row(parameter: Mapping[str, Any]) -> str:
    needed = " (required)" if parameter.get("required") else ""
    said = _inline(parameter.get("description", ""))
    return (
        f'<tr><th scope="row"><code>{html.escape(parameter["name"])}</code></th>'
        f"<td>{html.escape(parameter['in'])}{needed}</td><td>{_kind(parameter['schema'])}. {said}</td></tr>"
    )


def _answer_row(status: str, answer: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    if "$ref" in answer:
        answer = document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    kinds = [
        f"{_kind(content['schema'])} as <code>{html.escape(media)}</code>"
        for media, content in answer.get("content", {}).items()
    ]
    headers = [f"<code>{html.escape(name)}</code>" for name in answer.get("headers", {})]
    told = "".join(f"<br>{part}" for part in (*kinds, *([f"Headers: {', '.join(headers)}"] if headers else [])))
    return f'<tr><th scope="row">{html.escape(status)}</th><td>{_inline(answer["description"])}{told}</td></tr>'


def _thing(name: str, schema: Mapping[str, Any]) -> str:
    parts = [f'<article id="{_anchor(name)}"><h3>{html.escape(name)}</h3>', _paragraphs(schema.get("description", ""))]
    needed = set(schema.get("required", ()))
    if "properties" in schema:
        rows = (_member_row(member, kind, is_needed=member in needed) for member, kind in schema["properties"].items())
        parts.append(_table(rows))
    else:
        parts.append(f"<p>{_kind(schema)}</p>")
    return "".join((*parts, "</article>\n"))


def _member_row(name: str, schema: Mapping[str, Any], *, is_needed: bool) -> str:
    needed = "required" if is_needed else ""
    said = _inline(schema.get("description", ""))
    return (
        f'<tr><th scope="row"><code>{html.escape(name)}</code></th><td>{needed}</td>'
        f"<td>{_kind(schema)}. {said}</td></tr>"
    )


def _kind(schema: Mapping[str, Any]) -> str:
    """Return what a schema asks for, as one phrase of HTML."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{_anchor(name)}">{html.escape(name)}</a>{_bounds(schema)}'
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(_kind(each) for each in schema[choice]) + _bounds(schema)
    if "allOf" in schema:
        return " and ".join(_kind(each) for each in schema["allOf"])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return "one of " + ", ".join(f"<code>{html.escape(str(value))}</code>" for value in values) + _bounds(schema)
    kind = html.escape(str(schema.get("type", "anything")))
    if "items" in schema:
        kind = f"list of {_kind(schema['items'])}"
    elif isinstance(schema.get("additionalProperties"), dict):
        kind = f"object of {_kind(schema['additionalProperties'])}"
    elif "format" in schema:
        kind = f"{kind} ({html.escape(schema['format'])})"
    return kind + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    told = [words.format(html.escape(str(schema[key]))) for key, words in _BOUNDS.items() if key in schema]
    if "pattern" in schema:
        told.append(f"like <code>{html.escape(schema['pattern'])}</code>")
    return "".join(f", {each}" for each in told)


def _table(rows: Iterable[str]) -> str:
    return f"<table><tbody>{''.join(rows)}</tbody></table>"


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_inline(each)}</p>" for each in text.strip().split("\n\n") if each)


def _inline(text: str) -> str:
    """Return text with its few marks as HTML: code, strong, and addresses."""
    linked = _LINK.sub(lambda found: f'<a href="{found[0]}">{found[0]}</a>', html.escape(text))
    return _STRONG.sub(r"<strong>\1</strong>", _CODE.sub(r"<code>\1</code>", linked))


def _anchor(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)

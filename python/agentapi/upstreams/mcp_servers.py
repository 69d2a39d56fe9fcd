"""The ``mcpServers`` JSON of Claude Desktop, Cursor and VS Code (``servers``), as upstreams. Parsing only."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from agentapi.errors import InvalidRequestError
from agentapi.settings import StdioCommand
from agentapi.upstreams.headers import carries_credential, is_header_value
from agentapi.upstreams.mcp_inputs import asks, declared_inputs, form_of_headers
from agentapi.upstreams.models import RESERVED_NAME, Auth, Transport

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agentapi.upstreams.forms import CredentialForm

__all__ = [
    "DeclaredServer",
    "declared_server",
    "entries",
    "is_disabled",
    "is_http_url",
    "name_for_url",
    "parse_mcp_servers",
]

_MAX_NAME = 32
_UNSUPPORTED = {"cwd", "envFile", "oauth", "auth"}
"""Keys of some clients that change what an entry does; dropped in silence they would surprise."""
_REMOTE_TYPES = {
    "http": Transport.HTTP,
    "streamable-http": Transport.HTTP,
    "streamableHttp": Transport.HTTP,
    "sse": Transport.SSE,
}


@dataclass(frozen=True, slots=True)
class DeclaredServer:
    """One server that somebody declared: remote, with its credential, or a command line."""

    name: str
    transport: Transport
    endpoint: str | None = None
    auth: Auth = Auth.NONE
    auth_header: str | None = None
    secret: str | None = field(default=None, repr=False)
    form: CredentialForm | None = None
    """What each user is asked for in the place of a secret."""
    command: StdioCommand | None = None


def parse_mcp_servers(text: str | bytes, *, home: Path) -> list[DeclaredServer]:
    """Return the servers of ``text`` in its order.

    Args:
        text: The file.
        home: ``HOME`` of the commands, so that ``npx`` and ``uvx`` find what they keep there.

    Raises:
        InvalidRequestError: One sentence naming the entry that is wrong and how to mend it.
    """
    wanted = {label: entry for label, entry in entries(text).items() if not is_disabled(entry)}
    inputs = declared_inputs(text)
    declared = [declared_server(label, entry, home, inputs) for label, entry in wanted.items()]
    names = [server.name for server in declared]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequestError(f"Two entries would both be called '{name}'; rename one.")
    return declared


def entries(text: str | bytes) -> dict[str, Any]:
    """Return the entries of the file ``text`` by their labels, unread.

    Raises:
        InvalidRequestError: It is no such file.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidRequestError("The file is not JSON.") from None
    servers = document.get("mcpServers", document.get("servers")) if isinstance(document, dict) else None
    if not isinstance(servers, dict) or not servers:
        raise InvalidRequestError("The file has no 'mcpServers' object with entries.")
    return servers


def name_for_url(url: str, taken: set[str]) -> str:
    """Return an upstream name for ``url`` that is not in ``taken``."""
    parts = urlsplit(url)
    base = _slug(f"{parts.hostname or 'upstream'}-{parts.port}" if parts.port else parts.hostname or "upstream")
    name, count = base, 1
    while name in taken or name == RESERVED_NAME:
        count += 1
        suffix = f"-{count}"
        name = base[: _MAX_NAME - len(suffix)].rstrip("-") + suffix
    return name


def is_http_url(url: str) -> bool:
    """Return whether ``url`` is an absolute HTTP address without user and password.

    Whether it may be called is the address guard's question.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    clean = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.username is None
    return clean and (port is None or port > 0)


def is_disabled(entry: object) -> bool:
    """Return whether its owner has switched the entry off."""
    return isinstance(entry, dict) and (entry.get("disabled") is True or entry.get("enabled") is False)


def declared_server(
    label: str,
    entry: Any,  # noqa: ANN401 - unvalidated JSON
    home: Path,
    inputs: Mapping[str, Mapping[str, Any]] | None = None,
) -> DeclaredServer:
    """Return the server that one entry declares; see ``parse_mcp_servers``. ``inputs`` are those of its file.

    Raises:
        InvalidRequestError: The entry is wrong; one sentence says how.
    """
    if not isinstance(entry, dict):
        raise InvalidRequestError(f"Entry '{label}' is not an object.")
    headers = entry.get("headers", {})
    asking = "command" not in entry and asks(headers)
    _refuse_placeholders(label, {key: value for key, value in entry.items() if not (asking and key == "headers")})
    unknown = sorted(_UNSUPPORTED & entry.keys())
    if unknown:
        raise InvalidRequestError(f"Entry '{label}' has '{unknown[0]}', which is not supported; leave it out.")
    name = _slug(label)
    if name == RESERVED_NAME:
        raise InvalidRequestError(
            f"Entry '{label}' would be called '{name}', which is the gateway's own name; rename it."
        )
    if "command" in entry:
        return DeclaredServer(name, Transport.STDIO, command=_command(label, entry, home))
    url, kind = entry.get("url", entry.get("serverUrl")), entry.get("type", entry.get("transport", "http"))
    if not isinstance(url, str) or not is_http_url(url):
        raise InvalidRequestError(f"Entry '{label}' has neither a 'command' nor an http(s) 'url'.")
    if not isinstance(kind, str) or kind not in _REMOTE_TYPES:
        raise InvalidRequestError(f"Entry '{label}' has the unknown type '{kind}'; use http, sse or stdio.")
    if asking:
        form = form_of_headers(label, _texts(label, headers), inputs or {})
        return DeclaredServer(name, _REMOTE_TYPES[kind], endpoint=url, auth=Auth.USER, form=form)
    auth, header, secret = _credential(label, _texts(label, headers))
    return DeclaredServer(name, _REMOTE_TYPES[kind], endpoint=url, auth=auth, auth_header=header, secret=secret)


def _command(label: str, entry: dict[str, Any], home: Path) -> StdioCommand:
    command, args, env = entry["command"], entry.get("args", []), entry.get("env", {})
    texts = isinstance(command, str) and isinstance(args, list) and all(isinstance(arg, str) for arg in args)
    if not texts or not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        raise InvalidRequestError(f"Entry '{label}' needs 'command' as text, 'args' as texts and 'env' as texts.")
    network = entry.get("network", False)
    if not isinstance(network, bool):
        raise InvalidRequestError(f"Entry '{label}': 'network' must be true or false.")
    environment = {name: SecretStr(value) for name, value in {"HOME": str(home), **env}.items()}
    return StdioCommand(command=command, args=tuple(args), env=environment, network=network)


def _texts(label: str, headers: Any) -> dict[str, str]:  # noqa: ANN401 - unvalidated JSON
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise InvalidRequestError(f"Entry '{label}': 'headers' must map names to texts.")
    return headers


def _credential(label: str, headers: dict[str, str]) -> tuple[Auth, str | None, str | None]:
    if not headers:
        return Auth.NONE, None, None
    if len(headers) > 1:
        raise InvalidRequestError(
            f"Entry '{label}' has {len(headers)} headers; an upstream takes one credential header."
        )
    ((header, value),) = headers.items()
    scheme, _, token = value.partition(" ")
    bearer = header.lower() == "authorization" and scheme.lower() == "bearer"
    secret = token.strip() if bearer else value
    if not carries_credential(header) or not is_header_value(secret):
        raise InvalidRequestError(f"Entry '{label}': the header '{header[:64]}' cannot carry that credential.")
    return (Auth.BEARER, None, secret) if bearer else (Auth.API_KEY, header, secret)


def _refuse_placeholders(label: str, value: Any) -> None:  # noqa: ANN401 - unvalidated JSON
    if isinstance(value, str) and "${" in value:
        raise InvalidRequestError(f"Entry '{label}' has a placeholder like ${{...}}; write the value itself.")
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        _refuse_placeholders(label, child)


def _slug(text: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_MAX_NAME].strip("-")
    if not slug:
        raise InvalidRequestError(f"'{text}' has no letter or digit to make a name of.")
    return slug

"""Commands that ask a running gateway over its API."""

from __future__ import annotations

import json
import re
from collections import Counter
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentapi.errors import AgentAPIError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic import SecretStr

__all__ = ["ask", "explain", "upstream_commands"]

_TIMEOUT_S = 60.0
_MAX_DETAIL = 500
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""What a header can carry as a bearer token (RFC 6750, section 2.1)."""

_MARKS = {"passes": "+", "ignored": " ", "hides": "-", "refuses_call": "-"}


class CommandError(AgentAPIError):
    """The gateway did not do as it was asked; the message says what to do next."""

    code = "command_failed"


def _gateway_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON."),
        click.option("--workspace", default="main", show_default=True, metavar="SLUG"),
        click.option(
            "--token-file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="File with the access token.  [default: the variable AGENTAPI_TOKEN]",
        ),
        click.option("--url", metavar="URL", help="The gateway.  [default: AGENTAPI_PUBLIC_URL]"),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("tool")
@click.option("--as", "somebody", metavar="USER", help="User id, subject or email address; others than you need admin.")
@click.option("--toolset", metavar="NAME", help="As a client of this toolset's URL.")
@click.option("--scope", "scopes", multiple=True, help="Assume a token with these scopes. Repeatable.")
@_gateway_options
def explain(
    *,
    tool: str,
    somebody: str | None,
    toolset: str | None,
    scopes: Sequence[str],
    url: str | None,
    token_file: Path | None,
    workspace: str,
    as_json: bool,
) -> None:
    """Say why TOOL is or is not visible and callable, check by check."""
    given = {"tool": tool, "workspace": workspace, "as": somebody, "toolset": toolset, "scope": list(scopes) or None}
    params = {name: value for name, value in given.items() if value is not None}
    answer = ask(url, token_file, "GET", "/api/v1/mcp/explain", params=params)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    who = answer["as"]
    click.echo(f"{answer['asked']} in {answer['workspace']}, for {who['subject']} ({who['role']}):")
    for reason in answer["reasons"]:
        click.echo(f"  {_MARKS.get(reason['outcome'], ' ')} {reason['check']}: {reason['detail']}")


@click.group("upstreams")
def upstream_commands() -> None:
    """The upstream servers of a running gateway."""


@upstream_commands.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what would happen, and change nothing.")
@_gateway_options
def import_upstreams(
    *, file: Path, dry_run: bool, url: str | None, token_file: Path | None, workspace: str, as_json: bool
) -> None:
    """Register the servers of FILE, an mcpServers JSON (Claude Desktop, Cursor, VS Code), and try each that is new."""
    params = {"workspace": workspace, "dry_run": str(dry_run).lower()}
    answer = ask(url, token_file, "POST", "/api/v1/mcp/import", params=params, body=file.read_bytes())
    refused = sum(server["status"] == "refused" for server in answer["servers"])
    for server in answer["servers"]:
        if server["status"] == "created" and not dry_run:
            server["test"] = ask(url, token_file, "POST", "/api/v1/mcp/test", body=_id_body(server["id"]))
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        for server in answer["servers"]:
            click.echo(_imported(server, dry_run=dry_run))
        click.echo(_import_summary(answer, dry_run=dry_run))
    if refused:
        raise CommandError(
            f"{refused} of the {len(answer['servers'])} entries cannot be imported as they are; change them and import"
            " the file again. What is there already stays as it is."
        )


def _imported(server: Mapping[str, Any], *, dry_run: bool) -> str:
    """Return what became of one entry of the file, in a sentence."""
    match server["status"]:
        case "created" if dry_run:
            words = f"would become the upstream '{server['name']}'."
        case "created":
            words = f"is now the upstream '{server['name']}'. {_tried(server)}"
        case "exists":
            words = f"left alone, since the workspace has an upstream '{server['name']}' already."
        case _:
            words = f"not imported. {server['reason']}"
    return f"{server['entry']}: {words}"


def _tried(server: Mapping[str, Any]) -> str:
    """Return what a connection to a new upstream came to, and what to do where it failed."""
    found = server["test"]
    if found["ok"]:
        return f"It answers, with {len(found['tools'])} tools."
    reason = str(found["reason"]).rstrip(".")
    return (
        f"It was tried and does not work yet. {reason}. PUT /api/v1/mcp/configurations/{server['id']} changes its"
        " address or secret, POST /api/v1/mcp/test tries it again."
    )


def _id_body(id_: str) -> bytes:
    return json.dumps({"id": id_}).encode()


def _import_summary(answer: Mapping[str, Any], *, dry_run: bool) -> str:
    counts = Counter(server["status"] for server in answer["servers"])
    failing = sum(not server["test"]["ok"] for server in answer["servers"] if "test" in server)
    created = f"{counts['created']} imported into the workspace '{answer['workspace']}'"
    if failing:
        created += f", of which {failing} {'does' if failing == 1 else 'do'} not work yet"
    done = f"{created}, {counts['exists']} there already, {counts['refused']} not imported."
    return f"A dry run, so nothing is changed; it would be: {done}" if dry_run else done


def ask(
    url: str | None,
    token_file: Path | None,
    method: str,
    path: str,
    *,
    params: Mapping[str, Any] | None = None,
    body: bytes | None = None,
) -> dict[str, Any]:
    """Return the gateway's answer.

    Raises:
        CommandError: There is none, or a refusal; the message says what to do next.
    """
    import httpx2  # noqa: PLC0415 - `agentapi --help` must not load it

    from agentapi.settings import load_settings  # noqa: PLC0415

    settings = load_settings()
    base = (url or str(settings.public_url)).rstrip("/")
    token = _token(token_file, settings.token)
    headers = {"Authorization": f"Bearer {token}"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    try:
        answer = httpx2.request(method, base + path, params=params, headers=headers, content=body, timeout=_TIMEOUT_S)
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, UnicodeError, ValueError):
        raise CommandError("--url is not an address like http://127.0.0.1:8000.") from None
    except httpx2.TransportError as error:
        raise CommandError(f"The gateway at {base} does not answer ({error}); is it running? --url names it.") from None
    return _document(base, answer.status_code, answer.content)


def _token(file: Path | None, variable: SecretStr | None) -> str:
    if file is not None:
        token = file.read_bytes().decode("ascii", "replace").strip()
    elif variable is not None:
        token = variable.get_secret_value().strip()
    else:
        raise CommandError(
            "Set AGENTAPI_TOKEN or give --token-file; `agentapi token mint` makes a token for `agentapi dev`."
        )
    if _TOKEN.fullmatch(token) is None:
        raise CommandError("The access token is no token; `agentapi token mint` makes one for `agentapi dev`.")
    return token


def _document(base: str, status: int, content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict) or (status >= HTTPStatus.BAD_REQUEST and "detail" not in document):
        raise CommandError(f"{base} answered with status {status} and is no AgentAPI gateway; --url names yours.")
    if status < HTTPStatus.BAD_REQUEST:
        return document
    if status == HTTPStatus.UNAUTHORIZED:
        raise CommandError(
            f"The gateway refuses the token: it is for another gateway than {base}, or expired;"
            " `agentapi token mint` makes one for `agentapi dev`."
        )
    fields = " ".join(f"{field['pointer']}: {field['detail']}" for field in document.get("errors", ()))
    raise CommandError(f"{document['detail']} {fields}".strip()[:_MAX_DETAIL])

"""The command line."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import click

import agentapi
from agentapi.audit_commands import audit_commands
from agentapi.errors import AgentAPIError, InvalidRequestError, StartupError
from agentapi.issuer_commands import issuer_commands
from agentapi.key_commands import keys
from agentapi.remote_commands import explain, upstream_commands
from agentapi.token_commands import chosen_data_dir, token_commands

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentapi.dev import Ready
    from agentapi.settings import StdioCommand
    from agentapi.upstreams.mcp_servers import DeclaredServer

__all__ = ["main"]

_MAX_SLUG = 63
_DECIDES = re.compile("HOME|PATH|SHELL|ENV|BASH_ENV|(LD|DYLD|NODE|NPM|PYTHON|UV)_.*|PYTHON.*", re.IGNORECASE)
"""Variables that change which program runs."""

_DATABASE_TIMEOUT_S = 10.0

# Commands import what they need when they run: `agentapi --help` must not load a web framework.


def main() -> None:
    """Run the command line; an error that a person can mend is one sentence and exit status 1."""
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"agentapi: {error.format_message()}", err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("Aborted.", err=True)
        sys.exit(1)
    except InvalidRequestError as error:
        details = " ".join(f"{field.pointer}: {field.detail}" for field in error.fields)
        click.echo(f"agentapi: {error.message} {details}".rstrip(), err=True)
        sys.exit(1)
    except AgentAPIError as error:
        click.echo(f"agentapi: {error.message}", err=True)
        sys.exit(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(agentapi.__version__, prog_name="agentapi")
def cli() -> None:
    """AgentAPI, a multi-tenant MCP gateway: one URL per workspace, every upstream MCP server behind it."""


cli.add_command(audit_commands)
cli.add_command(explain)
cli.add_command(issuer_commands)
cli.add_command(keys)
cli.add_command(token_commands)
cli.add_command(upstream_commands)


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes any free port.")
@click.option(
    "--data",
    "data_dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Data directory; kept between starts.  [default: AGENTAPI_DATA_DIR or a directory of your user]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object once it serves; logs go to stderr.")
@click.option("--upstream", "upstreams", multiple=True, metavar="URL", help="Put this MCP server behind the gateway.")
@click.option(
    "--mcp-config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Put the servers of this mcpServers JSON behind the gateway (Claude Desktop, Cursor, VS Code).",
)
@click.option("--yes", is_flag=True, help="Run the commands of --mcp-config without asking.")
def dev(
    *,
    host: str,
    port: int,
    data_dir: Path | None,
    as_json: bool,
    upstreams: Sequence[str],
    mcp_config: Path | None,
    yes: bool,
) -> None:
    """Start a whole gateway with nothing to configure: database, issuer, a demo organisation with two servers."""
    from agentapi.dev import DevOptions, run_dev  # noqa: PLC0415
    from agentapi.observability.logs import configure_logging  # noqa: PLC0415

    servers = _declared_servers(upstreams, mcp_config)
    _confirm_commands(servers, yes=yes)
    configure_logging(output="console" if sys.stderr.isatty() else "json")
    options = DevOptions(
        data_dir=chosen_data_dir(data_dir),
        host=host,
        port=port,
        servers=servers,
    )
    _run(run_dev(options, _print_json if as_json else _print_welcome))


@cli.command()
@click.option("--host", help="Address to listen on.  [default: AGENTAPI_HOST]")
@click.option("--port", type=click.IntRange(0, 65535), help="[default: AGENTAPI_PORT]")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes.  [default: AGENTAPI_WORKERS]")
def serve(*, host: str | None, port: int | None, workers: int | None) -> None:
    """Serve in production, configured by AGENTAPI_* variables."""
    import uvicorn  # noqa: PLC0415

    from agentapi.app import from_environment  # noqa: PLC0415
    from agentapi.settings import load_settings  # noqa: PLC0415

    settings = load_settings()
    from_environment()  # Says what is wrong with the settings here, once, instead of in every worker.
    uvicorn.run(
        "agentapi.app:from_environment",
        factory=True,
        http="agentapi.http_server:HttpProtocol",
        ws="none",
        host=host or settings.host,
        port=settings.port if port is None else port,
        workers=workers or settings.workers,
        log_config=None,
        access_log=False,
        server_header=False,
        # Whose word about a client's address counts is for AGENTAPI_TRUSTED_PROXIES to say.
        proxy_headers=False,
        # Short of the half minute that Kubernetes and its like give a process by default.
        timeout_graceful_shutdown=25,
        lifespan="on",
    )


@cli.command()
def migrate() -> None:
    """Bring the schema of AGENTAPI_MIGRATION_DATABASE_URL up to date, as its owner."""
    from agentapi.observability.logs import configure_from_settings  # noqa: PLC0415
    from agentapi.settings import load_settings  # noqa: PLC0415
    from agentapi.storage.migrations import migrate as run_migrations  # noqa: PLC0415

    settings = load_settings()
    configure_from_settings(settings)
    if settings.migration_database_url is None:
        raise StartupError("Set AGENTAPI_MIGRATION_DATABASE_URL to the database as the owner of the schema.")
    applied = asyncio.run(
        run_migrations(settings.migration_database_url.get_secret_value(), settings.database_app_role)
    )
    click.echo("\n".join(f"applied {name}" for name in applied) or "up to date")


@cli.group()
def organizations() -> None:
    """Organisations of the deployment in AGENTAPI_DATABASE_URL."""


@organizations.command("create")
@click.argument("slug")
@click.option("--name", help="Name for people.  [default: the slug]")
@click.option("--workspace", default="main", show_default=True, help="Slug of its first workspace.")
def organizations_create(*, slug: str, name: str | None, workspace: str) -> None:
    """Create the organisation SLUG with one workspace, and print the path of its MCP endpoint."""
    from agentapi.settings import load_settings  # noqa: PLC0415

    settings = load_settings()
    if settings.database_url is None:
        raise StartupError("Set AGENTAPI_DATABASE_URL to the database of the deployment.")
    for given in (slug, workspace):
        if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", given) is None or len(given) > _MAX_SLUG:
            raise StartupError(f"'{given}' is not a slug: lower-case letters, digits and single hyphens, at most 63.")
    _run(_create_organization(settings.database_url.get_secret_value(), slug, name or slug, workspace))
    click.echo(f"/mcp/{slug}/{workspace}")


async def _create_organization(dsn: str, slug: str, name: str, workspace: str) -> None:
    from agentapi.audit.log import AuditLog  # noqa: PLC0415
    from agentapi.audit.models import Actor, Entry, Outcome, Source  # noqa: PLC0415
    from agentapi.principal import OrgId, WorkspaceId  # noqa: PLC0415
    from agentapi.storage.database import Database  # noqa: PLC0415
    from agentapi.tenancy import store  # noqa: PLC0415

    database = await Database.connect(dsn, pool_min=1, pool_max=1, timeout_s=_DATABASE_TIMEOUT_S)
    try:
        org_id = OrgId(uuid4())
        async with database.organization_transaction(org_id) as connection:
            await store.create_organization(connection, org_id=org_id, slug=slug, name=name)
            await store.create_workspace(
                connection, workspace_id=WorkspaceId(uuid4()), org_id=org_id, slug=workspace, name=workspace
            )
            entry = Entry("organization.created", Outcome.SUCCESS, f"organization:{org_id}", {"slug": slug})
            await AuditLog(database).record(connection, Actor(org_id), entry, Source(agent="agentapi organizations"))
    finally:
        await database.close()


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def config(*, as_json: bool) -> None:
    """Show the effective settings, secrets redacted, each with its source."""
    from agentapi.settings import describe_settings  # noqa: PLC0415

    described = describe_settings()
    if as_json:
        click.echo(json.dumps(described, indent=2))
        return
    for name, entry in described.items():
        click.echo(f"{name}={entry['value']}  ({entry['source']})")


def _run(coroutine: Any) -> None:  # noqa: ANN401 - whatever asyncio.run takes
    if sys.platform == "win32":
        asyncio.run(coroutine)
        return
    import uvloop  # noqa: PLC0415

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)


def _declared_servers(upstreams: Sequence[str], mcp_config: Path | None) -> list[DeclaredServer]:
    from agentapi.upstreams.mcp_servers import (  # noqa: PLC0415
        DeclaredServer,
        is_http_url,
        name_for_url,
        parse_mcp_servers,
    )
    from agentapi.upstreams.models import Transport  # noqa: PLC0415

    servers = []
    if mcp_config is not None:
        try:
            servers = parse_mcp_servers(mcp_config.read_bytes(), home=Path.home())
        except InvalidRequestError as error:
            raise StartupError(f"{mcp_config}: {error.message}") from None
    taken = {"notes", "clock"}
    for server in servers:
        if server.name in taken:
            raise InvalidRequestError(f"The name '{server.name}' belongs to a demo server; rename the entry.")
    taken |= {server.name for server in servers}
    for url in upstreams:
        if not is_http_url(url):
            raise StartupError(f"--upstream {url}: this is not an http:// or https:// address.")
        name = name_for_url(url, taken)
        taken.add(name)
        servers.append(DeclaredServer(name, Transport.HTTP, endpoint=url))
    return servers


def _shown(command: StdioCommand) -> str:
    """Return a command line as a person must see it to agree, with the variables that come with it.

    Values are secrets as a rule, so they are left out, but for those that decide what is run.
    """
    line = _visible(shlex.join((command.command, *command.args)))
    variables = [
        f"{_visible(name)}={_visible(value.get_secret_value())}" if _DECIDES.match(name) else _visible(name)
        for name, value in command.env.items()
        if name != "HOME" or value.get_secret_value() != str(Path.home())
    ]
    return f"{line} (with {', '.join(variables)})" if variables else line


def _visible(text: str) -> str:
    """Return ``text`` with everything escaped that could make a terminal show something else than what is run."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _confirm_commands(servers: Sequence[DeclaredServer], *, yes: bool) -> None:
    for server in servers:
        if server.command is None:
            continue
        if shutil.which(server.command.command) is None:
            raise StartupError(f"'{server.name}': there is no command {_visible(server.command.command)} on the PATH.")
        if yes:
            continue
        line = _shown(server.command)
        if not sys.stdin.isatty():
            raise StartupError(f"'{server.name}' would run the command: {line} - repeat with --yes to allow it.")
        click.confirm(f"'{server.name}' runs the command: {line}\nAllow it?", abort=True, err=True)


def _print_json(ready: Ready) -> None:
    click.echo(json.dumps(asdict(ready)))
    sys.stdout.flush()


def _print_welcome(ready: Ready) -> None:
    click.echo(
        f"""
AgentAPI {agentapi.__version__} is ready. Ctrl-C stops it.

  MCP URL  {ready.mcp_url}
  Token    {ready.token}
  Data     {ready.data_dir}

Call a tool with curl:

  curl -s {ready.mcp_url} \\
    -H 'Authorization: Bearer {ready.token}' \\
    -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \\
    -H 'MCP-Protocol-Version: 2026-07-28' -H 'Mcp-Method: tools/call' -H 'Mcp-Name: clock__current_time' \\
    -d '{_CURL_BODY}'

Connect Claude Code:

  claude mcp add --transport http agentapi {ready.mcp_url} \\
    --header 'Authorization: Bearer {ready.token}'
"""
    )
    sys.stdout.flush()


_CURL_BODY = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "clock__current_time",
            "arguments": {"time_zone": "Europe/Berlin"},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    }
)

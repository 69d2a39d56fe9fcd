"""``agentapi token``: tokens for `agentapi dev` from its key, and for agents from a running gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentapi.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

__all__ = ["chosen_data_dir", "token_commands"]

# Commands import what they need when they run: `agentapi --help` must not load a web framework.

_DEV_ONLY = ("data_dir", "base_url", "subject", "organization")
_REMOTE_ONLY = ("url", "token_file", "session", "workspace", "as_json")


@click.group("token")
def token_commands() -> None:
    """Access tokens: of `agentapi dev`, or of a session of a running gateway."""


@token_commands.command("mint")
@click.option("--data", "data_dir", type=click.Path(file_okay=False, path_type=Path), help="Data directory of `dev`.")
@click.option("--base-url", help="Gateway of `dev` that the token is for.  [default: http://127.0.0.1:8000]")
@click.option("--subject", help="With `dev`.  [default: developer]")
@click.option("--organization", help="With `dev`.  [default: demo]")
@click.option("--url", metavar="URL", help="Ask this running gateway for a token of a session.")
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with your own access token, with --url.  [default: the variable AGENTAPI_TOKEN]",
)
@click.option("--session", type=click.UUID, metavar="ID", help="Another token of this session; otherwise one begins.")
@click.option("--workspace", metavar="SLUG", help="Where the session begins.  [default: main]")
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer of the gateway as JSON.")
@click.option(
    "--role",
    type=click.Choice(["org_admin", "member", "viewer", "agent"]),
    help="[default: member with `dev`, agent with --url]",
)
@click.option("--scope", "scopes", multiple=True, help="Repeatable.")
@click.option(
    "--lifetime", "lifetime_s", type=click.IntRange(1), metavar="SECONDS", help="Of the token, or the session."
)
def mint(**given: Any) -> None:  # noqa: ANN401 - what click read
    """Print a token that the gateway of `agentapi dev` accepts, or with --url one that an agent can begin with."""
    remote = [name for name in _REMOTE_ONLY if given[name]]
    if not remote:
        click.echo(_minted_for_dev(**{name: value for name, value in given.items() if name not in _REMOTE_ONLY}))
        return
    odd = [name for name in _DEV_ONLY if given[name] is not None]
    if odd:
        options = {"data_dir": "--data"}
        told = ", ".join(options.get(name, f"--{name.replace('_', '-')}") for name in odd)
        raise StartupError(f"{told}: for `agentapi dev` alone; a running gateway knows that from your own token.")
    answer = _asked(
        url=given["url"],
        token_file=given["token_file"],
        session=given["session"],
        wish={
            "workspace": given["workspace"],
            "role": given["role"],
            "scopes": list(given["scopes"]) or None,
            "expires_in_s": given["lifetime_s"],
        },
    )
    click.echo(json.dumps(answer, indent=2) if given["as_json"] else answer["token"])


def _minted_for_dev(
    *,
    data_dir: Path | None,
    base_url: str | None,
    subject: str | None,
    organization: str | None,
    role: str | None,
    scopes: Sequence[str],
    lifetime_s: int | None,
) -> str:
    from agentapi.dev import ISSUER, issuer_key_path  # noqa: PLC0415
    from agentapi.identity.token_issuer import TokenIssuer  # noqa: PLC0415
    from agentapi.principal import Role  # noqa: PLC0415

    path = issuer_key_path(chosen_data_dir(data_dir))
    if not path.exists():
        raise StartupError(
            f"There is no dev issuer in {path.parent}; start `agentapi dev` once, or give --data. For a gateway that"
            " runs elsewhere give --url."
        )
    return TokenIssuer.from_file(ISSUER, path).mint(
        subject=subject or "developer",
        audiences=[base_url or "http://127.0.0.1:8000"],
        organization=organization or "demo",
        role=Role(role or "member"),
        lifetime_s=lifetime_s or 3600,
        scopes=scopes,
    )


def _asked(*, url: str | None, token_file: Path | None, session: UUID | None, wish: dict[str, Any]) -> dict[str, Any]:
    from agentapi.remote_commands import ask  # noqa: PLC0415

    chosen = {name: value for name, value in wish.items() if value is not None}
    if session is None:
        return ask(url, token_file, "POST", "/api/v1/sessions", body=json.dumps(chosen).encode())
    if chosen:
        raise StartupError("A session has its workspace, role, scopes and end already; give --session alone.")
    return ask(url, token_file, "POST", f"/api/v1/sessions/{session}/tokens", body=b"{}")


def chosen_data_dir(given: Path | None) -> Path:
    """Return the data directory of ``dev`` that the command line, a variable or the system names."""
    from agentapi.settings import load_settings  # noqa: PLC0415
    from agentapi.storage.embedded import default_data_dir  # noqa: PLC0415

    return (given or load_settings().data_dir or default_data_dir()).expanduser().absolute()

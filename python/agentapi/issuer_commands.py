"""``agentapi issuer``: the keys that the gateway's own issuer signs with."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import click

from agentapi.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentapi.identity.signing_keys.models import SigningKey
    from agentapi.identity.signing_keys.ring import SigningRing

__all__ = ["issuer_commands"]

_T = TypeVar("_T")

# Commands import what they need when they run: `agentapi --help` must not load a database driver.


@click.group("issuer")
def issuer_commands() -> None:
    """The keys that the gateway's own issuer signs with, in AGENTAPI_DATABASE_URL. They rotate by themselves."""


@issuer_commands.command("keys")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def keys(*, as_json: bool) -> None:
    """List the keys that are published, and say which one signs."""
    from agentapi.identity.signing_keys.models import signing_now  # noqa: PLC0415

    async def read(ring: SigningRing) -> list[SigningKey]:
        return list(await ring.load())

    found = asyncio.run(_with_ring(read))
    signing = signing_now(found, datetime.now(UTC))
    if as_json:
        document = [
            {
                "id": key.id,
                "created_at": key.created_at.isoformat(),
                "signs_from": key.signs_from.isoformat(),
                "signs": key is signing,
            }
            for key in found
        ]
        click.echo(json.dumps(document, indent=2))
        return
    for key in found:
        note = "signs" if key is signing else f"signs from {key.signs_from:%Y-%m-%d %H:%M:%S} UTC"
        if key is not signing and key.signs_from <= datetime.now(UTC):
            note = "published until its last token has ended"
        click.echo(f"{key.id}: {note}")


@issuer_commands.command("rotate")
@click.option("--compromised", is_flag=True, help="Put a new key in the place of all: every token so far is refused.")
def rotate(*, compromised: bool) -> None:
    """Add the next key now. It signs in ten minutes, when every copy of the key set has it."""

    async def change(ring: SigningRing) -> SigningKey:
        return await (ring.replace() if compromised else ring.rotate())

    key = asyncio.run(_with_ring(change))
    if compromised:
        click.echo(f"{key.id} signs now, and what other keys signed is refused.")
    else:
        click.echo(f"{key.id} is published now and signs from {key.signs_from:%Y-%m-%d %H:%M:%S} UTC.")


async def _with_ring(work: Callable[[SigningRing], Awaitable[_T]]) -> _T:
    from agentapi.audit.log import AuditLog  # noqa: PLC0415
    from agentapi.identity.signing_keys.ring import SigningRing  # noqa: PLC0415
    from agentapi.keyring_source import load_keyring  # noqa: PLC0415
    from agentapi.settings import load_settings  # noqa: PLC0415
    from agentapi.storage.database import Database  # noqa: PLC0415

    settings = load_settings()
    if settings.database_url is None:
        raise StartupError("Set AGENTAPI_DATABASE_URL to the database of the deployment.")
    database = await Database.connect(
        settings.database_url.get_secret_value(), pool_min=1, pool_max=1, timeout_s=settings.database_timeout_s
    )
    try:
        return await work(
            SigningRing.from_settings(settings, database, keyring=load_keyring(settings), audit=AuditLog(database))
        )
    finally:
        await database.close()

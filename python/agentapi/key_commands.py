"""``agentapi keys``: make a keyring, change its keys, and bring what is stored under the new one while calls go on."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from agentapi.dev_data import data_option, deployment, settings_of
from agentapi.errors import AgentAPIError, StartupError

if TYPE_CHECKING:
    from pathlib import Path

    from agentapi.settings import Settings
    from agentapi.storage.resealing import Progress, SealedColumn

__all__ = ["keys", "sealed_columns"]

_STORE_PUBLIC_KEY = (
    "Before this keyring is put in place, store what `agentapi audit keys` prints: it has the public key of {}, without"
    " which `agentapi audit verify` and `retain` cannot check what that key has signed (--public-keys)."
)

# Commands import what they need when they run: `agentapi --help` must not load a database driver.


class KeysError(AgentAPIError):
    """The keys are not as they should be; the message says what to do next."""

    code = "keys_command_failed"


@click.group()
def keys() -> None:
    """The sealing keyring."""


@keys.command("generate")
@click.option("--key-id", default="k1", show_default=True)
def generate(*, key_id: str) -> None:
    """Print a new keyring for AGENTAPI_KEYRING or AGENTAPI_KEYRING_FILE. Keep it safe: nothing opens without it."""
    from agentapi._core import Keyring, KeyringError  # noqa: PLC0415

    try:
        click.echo(Keyring.generate(key_id))
    except KeyringError as error:
        raise StartupError(f"--key-id: {error}.") from None


@keys.command("add")
@click.argument("key_id")
@data_option
def add(*, key_id: str, data_dir: Path | None) -> None:
    """Print the deployment's keyring with the new key KEY_ID, which opens but does not seal yet."""
    from agentapi._core import Keyring, KeyringError  # noqa: PLC0415

    text = _keyring_text(data_dir)
    try:
        rotated = json.loads(Keyring.rotate(text, key_id))
    except KeyringError as error:
        raise StartupError(f"KEY_ID: {error}.") from None
    # Every process has to know a key before the first one seals under it.
    click.echo(_text(rotated["keys"], active=json.loads(text)["active"]))


@keys.command("activate")
@click.argument("key_id")
@data_option
def activate(*, key_id: str, data_dir: Path | None) -> None:
    """Print the deployment's keyring with KEY_ID as the key that seals."""
    found = json.loads(_keyring_text(data_dir))["keys"]
    if key_id not in found:
        raise StartupError(f"The keyring has no key {key_id}; it has {', '.join(sorted(found))}.")
    click.echo(_text(found, active=key_id))


@keys.command("remove")
@click.argument("key_id")
@data_option
def remove(*, key_id: str, data_dir: Path | None) -> None:
    """Print the deployment's keyring without KEY_ID, unless something stored still needs it."""
    document = json.loads(_keyring_text(data_dir))
    if key_id not in document["keys"]:
        raise StartupError(f"The keyring has no key {key_id}; it has {', '.join(sorted(document['keys']))}.")
    if key_id == document["active"]:
        raise StartupError(f"{key_id} is the key that seals; activate another one first.")
    needing = {str(column): found[key_id] for column, found in _counted(data_dir).items() if key_id in found}
    if needing:
        told = ", ".join(f"{count} in {column}" for column, count in needing.items())
        raise KeysError(f"{key_id} is still needed: {told}. `agentapi keys rotate` seals these values anew.")
    click.echo(_STORE_PUBLIC_KEY.format(key_id), err=True)
    click.echo(_text({id_: key for id_, key in document["keys"].items() if id_ != key_id}, active=document["active"]))


@keys.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@data_option
def status(*, as_json: bool, data_dir: Path | None) -> None:
    """Say how many stored values each key has sealed, and so which keys are still needed."""
    from agentapi._core import Keyring  # noqa: PLC0415

    keyring = Keyring.parse(_keyring_text(data_dir))
    counted = _counted(data_dir)
    unknown = sorted({key_id for found in counted.values() for key_id in found} - {*keyring.key_ids})
    if as_json:
        document = {
            "active": keyring.active_key_id,
            "keys": list(keyring.key_ids),
            "unknown_keys": unknown,
            "sealed": {str(column): found for column, found in counted.items()},
        }
        click.echo(json.dumps(document, indent=2))
    else:
        for key_id in (*keyring.key_ids, *unknown):
            count = sum(found.get(key_id, 0) for found in counted.values())
            note = "seals" if key_id == keyring.active_key_id else "not in the keyring" if key_id in unknown else ""
            needed = "needed" if count or note == "seals" else "not needed by anything stored"
            click.echo(f"{key_id}: {count} values, {needed}{f' ({note})' if note else ''}")
    if unknown:
        raise KeysError(f"There are values under {', '.join(unknown)}, which the keyring does not have.")


@keys.command("rotate")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@click.option("--dry-run", is_flag=True, help="Say how many values would be sealed anew, and change nothing.")
@data_option
def rotate(*, as_json: bool, dry_run: bool, data_dir: Path | None) -> None:
    """Seal every stored value anew under the active key, while the gateway goes on serving. Repeatable at any time."""
    from agentapi._core import Keyring  # noqa: PLC0415
    from agentapi.storage.resealing import reseal  # noqa: PLC0415

    keyring = Keyring.parse(_keyring_text(data_dir))
    if dry_run:
        waiting = {
            str(column): sum(found.values()) - found.get(keyring.active_key_id, 0)
            for column, found in _counted(data_dir).items()
        }
        lines = "\n".join(f"{column}: {count} to seal anew" for column, count in waiting.items())
        click.echo(json.dumps({"active": keyring.active_key_id, "waiting": waiting}) if as_json else lines)
        return

    def tell(column: SealedColumn, progress: Progress) -> None:
        if progress.resealed:
            click.echo(f"{column}: {progress.resealed} sealed anew", err=True)

    async def run() -> dict[SealedColumn, Progress]:
        async with deployment(data_dir) as settings:
            return await reseal(_owner_dsn(settings), sealed_columns(), keyring, tell=tell)

    done = asyncio.run(run())
    if as_json:
        columns = {str(column): asdict(progress) for column, progress in done.items()}
        click.echo(json.dumps({"active": keyring.active_key_id, "columns": columns}, indent=2))
    else:
        for column, progress in done.items():
            click.echo(f"{column}: {progress.resealed} sealed anew, {progress.remaining} under other keys")
    _require_all(done)


def sealed_columns() -> tuple[SealedColumn, ...]:
    """Return every column of the schema that holds sealed values; a test compares them with the catalogue."""
    from agentapi.idempotency.ledger import SEALED as ANSWERS  # noqa: PLC0415
    from agentapi.identity.signing_keys.ring import SEALED as SIGNING  # noqa: PLC0415
    from agentapi.jobs.queue import SEALED as JOBS  # noqa: PLC0415
    from agentapi.oauth.brought.vault import SEALED as BROUGHT  # noqa: PLC0415
    from agentapi.oauth.vault import SEALED as OAUTH  # noqa: PLC0415
    from agentapi.upstreams.secrets import SEALED as UPSTREAMS  # noqa: PLC0415

    return (*UPSTREAMS, *OAUTH, *BROUGHT, *JOBS, *ANSWERS, *SIGNING)


def _require_all(done: dict[SealedColumn, Progress]) -> None:
    unopened = {column: progress for column, progress in done.items() if progress.unopened}
    if unopened:
        told = "; ".join(
            f"{progress.unopened} in {column} ({', '.join(progress.rows)})" for column, progress in unopened.items()
        )
        raise KeysError(f"Values that do not open with this keyring stay as they are: {told}.")
    if any(progress.remaining for progress in done.values()):
        raise KeysError("Some values were written under another key meanwhile; have all processes the new keyring?")


def _counted(data_dir: Path | None) -> dict[SealedColumn, dict[str, int]]:
    from agentapi.storage.resealing import count_by_key  # noqa: PLC0415

    async def count() -> dict[SealedColumn, dict[str, int]]:
        async with deployment(data_dir) as settings:
            return await count_by_key(_owner_dsn(settings), sealed_columns())

    return asyncio.run(count())


def _keyring_text(data_dir: Path | None) -> str:
    from agentapi._core import Keyring, KeyringError  # noqa: PLC0415
    from agentapi.keyring_source import load_keyring_text  # noqa: PLC0415

    text = load_keyring_text(settings_of(data_dir))
    try:
        Keyring.parse(text)
    except KeyringError as error:
        raise StartupError(f"The keyring cannot be used: {error}.") from None
    return text


def _owner_dsn(settings: Settings) -> str:
    if settings.migration_database_url is None:
        raise StartupError("Set AGENTAPI_MIGRATION_DATABASE_URL to the database as the owner of the schema.")
    return settings.migration_database_url.get_secret_value()


def _text(found: dict[str, Any], *, active: str) -> str:
    return json.dumps({"active": active, "keys": found}, separators=(",", ":"))

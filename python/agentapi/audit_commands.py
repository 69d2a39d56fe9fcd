"""``agentapi audit``: check, export, retain; for the operator of the deployment, on its database."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from agentapi.dev_data import data_option, deployment, settings_of
from agentapi.errors import NotFoundError, StartupError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from agentapi.audit.signing import PublicKeys
    from agentapi.audit.verify import Anchors, Report
    from agentapi.principal import OrgId
    from agentapi.settings import Settings
    from agentapi.storage.database import Connection, Database

__all__ = ["audit_commands"]

_TIMEOUT_S: Final = 60.0
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_public_keys_option = click.option(
    "--public-keys",
    type=_FILE,
    help="What `agentapi audit keys` printed; added to those of the keyring, if there is one.",
)

# As in cli: commands import what they need when they run.


@click.group("audit")
def audit_commands() -> None:
    """The audit log of the deployment in AGENTAPI_DATABASE_URL."""


@audit_commands.command("verify")
@click.option(
    "--organization", "slugs", multiple=True, metavar="SLUG", help="Repeatable.  [default: all, as the owner]"
)
@_public_keys_option
@click.option("--anchors", type=_FILE, help="Checkpoints that were kept elsewhere: log lines, or NDJSON.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@data_option
def verify_command(
    *, slugs: Sequence[str], public_keys: Path | None, anchors: Path | None, as_json: bool, data_dir: Path | None
) -> None:
    """Check every hash chain and checkpoint, and name the first row of each chain that is wrong.

    Without --organization it reads as the owner of AGENTAPI_MIGRATION_DATABASE_URL. Exit status 1: something is wrong.
    """
    from agentapi.audit.verify import read_anchors  # noqa: PLC0415

    keys = _public_keys(settings_of(data_dir), public_keys)
    kept = read_anchors(anchors.read_text("utf-8").splitlines()) if anchors is not None else {}
    reports = asyncio.run(_verify(data_dir, slugs, keys, kept))
    broken = any(report.findings for report in reports)
    if as_json:
        click.echo(json.dumps({"intact": not broken, "organizations": [_plain(report) for report in reports]}))
    else:
        for report in reports:
            _print_report(report)
    if broken:
        sys.exit(1)


@audit_commands.command("export")
@click.argument("slug")
@click.option("--since", type=click.DateTime(), help="From this time on (UTC).")
@click.option("--until", type=click.DateTime(), help="Before this time (UTC).")
@click.option("--action", help="This action alone.")
@data_option
def export_command(
    *, slug: str, since: datetime | None, until: datetime | None, action: str | None, data_dir: Path | None
) -> None:
    """Print the rows of the organisation SLUG as NDJSON, newest first."""
    from agentapi.audit.models import Filter  # noqa: PLC0415

    wanted = Filter(
        action=action,
        since=None if since is None else since.replace(tzinfo=UTC),
        until=None if until is None else until.replace(tzinfo=UTC),
    )
    asyncio.run(_export(data_dir, slug, wanted))


@audit_commands.command("keys")
@data_option
def keys_command(*, data_dir: Path | None) -> None:
    """Print the public keys that checkpoints are checked with, as JSON; they are no secret."""
    click.echo(_public_keys(settings_of(data_dir), None).as_json())


@audit_commands.command("retain")
@click.option("--days", type=click.IntRange(1), help="Keep this many.  [default: AGENTAPI_AUDIT_RETENTION_DAYS]")
@_public_keys_option
@data_option
def retain_command(*, days: int | None, public_keys: Path | None, data_dir: Path | None) -> None:
    """Drop the months that are older than rows are kept, and make the partitions of those to come.

    It works as the owner of AGENTAPI_MIGRATION_DATABASE_URL; run it every month. A log that is not intact is left;
    with --public-keys that is checked with keys that have left the keyring, too.
    """
    keep = timedelta(days=days or settings_of(data_dir).audit_retention_days)
    dropped = asyncio.run(_retain(data_dir, keep, public_keys))
    click.echo("\n".join(f"dropped {month}" for month in dropped) or "nothing to drop")


async def _verify(data_dir: Path | None, slugs: Sequence[str], keys: PublicKeys, anchors: Anchors) -> list[Report]:
    from agentapi.audit import store  # noqa: PLC0415
    from agentapi.audit.models import DEPLOYMENT  # noqa: PLC0415
    from agentapi.audit.verify import verify  # noqa: PLC0415
    from agentapi.principal import OrgId  # noqa: PLC0415

    async def one(connection: Connection, org_id: OrgId) -> Report:
        return await verify(connection, org_id, keys, anchors=anchors.get(org_id))

    reports = []
    async with deployment(data_dir) as settings:
        if slugs:
            async with _database(settings) as database:
                for slug in slugs:
                    org_id = await _organization(database, slug)
                    async with database.snapshot(org_id) as connection:
                        reports.append(await one(connection, org_id))
            return reports
        async with _owner(settings) as connection:
            organizations = {*await store.organizations(connection), *anchors, DEPLOYMENT}
            for org_id in map(OrgId, sorted(organizations)):
                async with connection.transaction(isolation="repeatable_read", readonly=True):
                    reports.append(await one(connection, org_id))
    return reports


async def _export(data_dir: Path | None, slug: str, wanted: Any) -> None:  # noqa: ANN401 - a Filter
    from agentapi.audit.routes import exported  # noqa: PLC0415

    async with deployment(data_dir) as settings, _database(settings) as database:
        async for lines in exported(database, await _organization(database, slug), wanted):
            click.echo(lines, nl=False)


async def _retain(data_dir: Path | None, keep: timedelta, public_keys: Path | None) -> list[str]:
    from agentapi.audit import store  # noqa: PLC0415
    from agentapi.audit.retention import MONTHS_AHEAD, drop_old_months  # noqa: PLC0415
    from agentapi.audit.signing import SigningKeys  # noqa: PLC0415
    from agentapi.keyring_source import load_keyring_text  # noqa: PLC0415

    keys = SigningKeys.from_keyring(load_keyring_text(settings_of(data_dir)))
    public = keys.public if public_keys is None else _given_keys(public_keys).joined(keys.public)
    async with deployment(data_dir) as settings, _owner(settings) as connection:
        await store.create_partitions(connection, MONTHS_AHEAD)
        return await drop_old_months(connection, keys, public, now=datetime.now(UTC), keep=keep)


def _public_keys(settings: Settings, file: Path | None) -> PublicKeys:
    from agentapi.audit.signing import SigningKeys  # noqa: PLC0415
    from agentapi.keyring_source import has_keyring, load_keyring, load_keyring_text  # noqa: PLC0415

    given = None if file is None else _given_keys(file)
    if given is not None and not has_keyring(settings):
        return given
    load_keyring(settings)  # Says what is wrong with it.
    own = SigningKeys.from_keyring(load_keyring_text(settings)).public
    return own if given is None else given.joined(own)


def _given_keys(file: Path) -> PublicKeys:
    from agentapi.audit.signing import PublicKeys  # noqa: PLC0415

    return PublicKeys.parse(file.read_text("utf-8"))


@contextlib.asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Database]:
    from agentapi.storage.database import Database  # noqa: PLC0415

    if settings.database_url is None:
        raise StartupError("Set AGENTAPI_DATABASE_URL to the database of the deployment.")
    dsn = settings.database_url.get_secret_value()
    database = await Database.connect(dsn, pool_min=1, pool_max=1, timeout_s=_TIMEOUT_S)
    try:
        yield database
    finally:
        await database.close()


@contextlib.asynccontextmanager
async def _owner(settings: Settings) -> AsyncIterator[Connection]:
    from agentapi.storage.owner import owner_connection  # noqa: PLC0415

    if settings.migration_database_url is None:
        raise StartupError("Set AGENTAPI_MIGRATION_DATABASE_URL to the database as the owner of the schema.")
    async with owner_connection(settings.migration_database_url.get_secret_value()) as connection:
        yield connection


async def _organization(database: Database, slug: str) -> OrgId:
    from agentapi.tenancy import store  # noqa: PLC0415

    async with database.directory_transaction(slug) as connection:
        organization = await store.find_organization(connection, slug)
    if organization is None:
        raise NotFoundError(f"There is no organization {slug}.")
    return organization.id


def _plain(report: Report) -> dict[str, Any]:
    from agentapi.audit.store import from_us  # noqa: PLC0415

    plain = asdict(report)
    at_us = plain.pop("last_checkpoint_us")
    return {**plain, "last_checkpoint": None if at_us is None else from_us(at_us).isoformat()}


def _print_report(report: Report) -> None:
    state = "intact" if not report.findings else "NOT INTACT"
    click.echo(
        f"{report.org_id}: {state}; {report.rows} rows in {report.chains} chains, {report.checkpoints} checkpoints,"
        f" {report.uncovered_rows} rows since the last"
    )
    for finding in report.findings:
        where = f"checkpoint {finding.sequence}"
        if finding.writer_id is not None:
            where = f"chain {finding.writer_id}, row {finding.sequence}"
        click.echo(f"  {where}: {finding.kind}: {finding.message}")

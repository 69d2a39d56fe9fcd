"""The data directory of ``agentapi dev`` as a deployment, for the commands that work on one."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import SecretStr

from agentapi.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agentapi.settings import Settings

__all__ = ["data_option", "deployment", "keyring_path", "settings_of"]

# As in cli: commands import what they need when they run.


def data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--data`` to a command, as ``data_dir``."""
    option = click.option(
        "--data",
        "data_dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Data directory of `agentapi dev`, while that does not run.  [default: what AGENTAPI_* variables name]",
    )
    return option(command)


def keyring_path(data_dir: Path) -> Path:
    """Return where a data directory keeps its keyring."""
    return data_dir / "keyring.json"


def settings_of(data_dir: Path | None) -> Settings:
    """Return the environment's settings, with the keyring of a data directory if one is given.

    Raises:
        StartupError: The directory has none.
    """
    from agentapi.settings import load_settings  # noqa: PLC0415

    if data_dir is None:
        return load_settings()
    place = data_dir.expanduser().absolute()
    if not keyring_path(place).exists():
        raise StartupError(f"There is no keyring in {place}; start `agentapi dev` there once, or give another --data.")
    return load_settings(data_dir=place, keyring=None, keyring_file=keyring_path(place), keyring_command=None)


@asynccontextmanager
async def deployment(data_dir: Path | None) -> AsyncIterator[Settings]:
    """Yield the same settings; the database of a data directory runs for the length of the context.

    Raises:
        StartupError: The directory has no deployment, or `agentapi dev` runs on it.
    """
    from agentapi.observability.logs import configure_logging  # noqa: PLC0415
    from agentapi.storage.embedded import embedded_postgres  # noqa: PLC0415

    settings = settings_of(data_dir)
    if data_dir is None or settings.data_dir is None:
        yield settings
        return
    # Whoever reads what the command prints does not want to know of the server.
    configure_logging(level="warning")
    async with embedded_postgres(settings.data_dir) as server:
        yield settings.model_copy(
            update={"database_url": SecretStr(server.app_dsn), "migration_database_url": SecretStr(server.owner_dsn)}
        )

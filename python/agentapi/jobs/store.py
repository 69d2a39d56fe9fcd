"""SQL of the queue that PgQueuer has none for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta

    from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver

__all__ = ["prune"]

_PRUNE = "DELETE FROM jobs_log WHERE created < now() - $1::interval"


async def prune(driver: AsyncpgDriver, *, keep: timedelta) -> None:
    """Drop what the log says of jobs that ended longer ago than ``keep``."""
    await driver.execute(_PRUNE, keep)

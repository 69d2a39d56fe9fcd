"""The names that PgQueuer's tables have here; migration 0006 makes them as that library declares them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder, QuerySchedulerBuilder
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.domain.settings import DBSettings, Durability
from pgqueuer.domain.types import Channel

if TYPE_CHECKING:
    import asyncpg

    from agentapi.storage.database import Connection

__all__ = ["CHANNEL", "driver", "queries"]

CHANNEL: Final = Channel("agentapi_jobs")
# Every field is given: the library would read what is missing from variables without a prefix, such as CHANNEL.
_NAMES: Final = DBSettings(
    prefix="",
    db_schema=None,
    channel=CHANNEL,
    function="jobs_changed",
    trigger="jobs_changed",
    queue_status_type="job_status",
    queue_table="jobs",
    queue_table_log="jobs_log",
    statistics_table="jobs_statistics",
    schedules_table="jobs_schedules",
    durability=Durability.durable,
    widen_id=True,
)


def driver(connection: asyncpg.Connection[asyncpg.Record] | Connection) -> AsyncpgDriver:
    """Return PgQueuer's driver over a connection, in whose transaction it then works."""
    return AsyncpgDriver(connection)  # type: ignore[arg-type] # a pool's proxy has what the driver calls


def queries(over: AsyncpgDriver) -> Queries:
    """Return PgQueuer's operations under the names that the tables have here."""
    return Queries(
        over,
        qbe=QueryBuilderEnvironment(_NAMES),
        qbq=QueryQueueBuilder(_NAMES),
        qbs=QuerySchedulerBuilder(_NAMES),
    )

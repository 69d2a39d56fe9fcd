"""The connection pool, and the only ways into a transaction.

Invariants:

* The role that is connected can see no row that row-level security hides: it is no superuser, has no
  BYPASSRLS, owns nothing, and belongs to no role that is or does.
* Whose rows a transaction sees is set inside it and ends with it (``set_config(..., true)``), so a connection
  that goes back to the pool carries nothing over.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Self, cast

import asyncpg

from agentapi.errors import LimitReachedError, StartupError, StorageUnavailableError
from agentapi.storage.migrations import pending
from agentapi.storage.together import Together

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from asyncpg.pool import PoolConnectionProxy

    from agentapi.principal import OrgId, Principal, UserId

    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
    """A connection inside a transaction that knows whose rows it may see."""

__all__ = ["Connection", "Database"]

_APPLICATION_NAME = "agentapi"
_AWAY = "The database is not available."

_SET_CONTEXT = (
    "SELECT set_config('app.org_id', $1, true), set_config('app.user_id', $2, true),"
    " set_config('app.org_slug', $3, true), set_config('app.platform', $4, true)"
)
_PLAN_EXCEEDED = "AG001"
"""What the triggers of migration 0008 raise, with what there may not be more of."""
_PING = "SELECT 1"
_DESCRIBE_ROLE = """
SELECT current_user AS name,
       me.rolsuper AS superuser,
       EXISTS (
           SELECT FROM pg_catalog.pg_roles r
           WHERE (r.rolbypassrls OR r.rolsuper) AND pg_has_role(current_user, r.oid, 'MEMBER')
       ) AS bypasses,
       EXISTS (
           SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
             AND n.nspname NOT IN ('pg_catalog', 'information_schema')
             AND pg_has_role(current_user, c.relowner, 'MEMBER')
       ) OR EXISTS (
           SELECT FROM pg_catalog.pg_database d
           WHERE d.datname = current_database() AND pg_has_role(current_user, d.datdba, 'MEMBER')
       ) AS owns
FROM pg_catalog.pg_roles me WHERE me.rolname = current_user
"""

_LOST = (
    OSError,  # TimeoutError among them
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)
"""What says that the database is away, whenever it comes up."""


class _Connection(asyncpg.Connection):
    """A connection that is reset whenever it goes back to the pool, unless nothing is left to reset."""

    _is_clean = False

    def spare_reset(self) -> None:
        """Say that what was done since the connection was lent left nothing behind: a reset is a round trip."""
        self._is_clean = True

    def get_reset_query(self) -> str:
        """Return what resets the connection, which is asked as it goes back."""
        if self._is_clean:
            self._is_clean = False
            return ""
        return super().get_reset_query()


class Database:
    """A pool of connections to one database."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s

    @classmethod
    async def connect(cls, dsn: str, *, pool_min: int, pool_max: int, timeout_s: float) -> Self:
        """Open the pool as the application's role.

        ``timeout_s`` bounds connecting, acquiring a connection, and each statement.

        Raises:
            StartupError: the role could see through row-level security, or may not log in.
            StorageUnavailableError: the database cannot be reached.
        """
        try:
            pool = await asyncpg.create_pool(
                dsn,
                min_size=min(pool_min, pool_max),
                max_size=pool_max,
                timeout=timeout_s,
                command_timeout=timeout_s,
                connection_class=_Connection,
                server_settings={"application_name": _APPLICATION_NAME},
            )
        except ValueError as error:  # The driver's own words may repeat a part of the address.
            raise StartupError("AGENTAPI_DATABASE_URL is not an address like postgresql://user@host/name.") from error
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
            raise StartupError(f"The database refuses the login of AGENTAPI_DATABASE_URL: {error}.") from error
        except _LOST as error:
            raise StorageUnavailableError("The database cannot be reached.", reason=_reason(error)) from error
        database = cls(pool, timeout_s)
        try:
            await database._refuse_powerful_role()
        except BaseException:
            await database.close()
            raise
        return database

    async def _refuse_powerful_role(self) -> None:
        async with self._acquire() as connection:
            role = await connection.fetchrow(_DESCRIBE_ROLE)
        if role is None:  # pragma: no cover - current_user is always a role
            raise AssertionError
        power = (
            "is a superuser"
            if role["superuser"]
            else "can bypass row-level security"
            if role["bypasses"]
            else "owns tables or the database"
            if role["owns"]
            else None
        )
        if power is not None:
            raise StartupError(
                f"The database role {role['name']} {power}, so tenants would not be kept apart; "
                "give AGENTAPI_DATABASE_URL a role that owns nothing, such as agentapi_app."
            )

    @asynccontextmanager
    async def tenant_transaction(self, principal: Principal) -> AsyncIterator[Connection]:
        """Open a transaction that sees the rows of the principal's organisation, and the principal's own.

        Raises:
            StorageUnavailableError: the database is away, or no connection was free in time.
        """
        async with self._transaction(org_id=str(principal.org_id), user_id=str(principal.user_id)) as connection:
            yield connection

    @asynccontextmanager
    async def tenant_statement(self, principal: Principal) -> AsyncIterator[Connection]:
        """Lend a connection for one statement, which is a transaction by itself unless one is open around the task.

        The statement sets whose rows it sees, as ``tenant_transaction`` would, and nothing that outlives it: all of it
        is a single round trip.

        Raises:
            StorageUnavailableError: the database is away, or no connection was free in time.
        """
        if Together.current() is not None:
            async with self.tenant_transaction(principal) as connection:
                yield connection
            return
        with _plans():
            async with self._acquire() as connection:
                yield connection
                # The pool lends a proxy, which passes on what it does not know.
                cast("_Connection", connection).spare_reset()

    @asynccontextmanager
    async def user_transaction(self, org_id: OrgId, user_id: UserId) -> AsyncIterator[Connection]:
        """Open a transaction that sees what ``tenant_transaction`` would, for work that goes on without a request."""
        async with self._transaction(org_id=str(org_id), user_id=str(user_id)) as connection:
            yield connection

    @asynccontextmanager
    async def organization_transaction(self, org_id: OrgId) -> AsyncIterator[Connection]:
        """Open a transaction that sees what an organisation shares, for work that no user asked for.

        An organisation is created in the transaction of its new id.
        """
        async with self._transaction(org_id=str(org_id)) as connection:
            yield connection

    @asynccontextmanager
    async def directory_transaction(self, org_slug: str) -> AsyncIterator[Connection]:
        """Open a transaction that sees one row, an organisation looked up before a principal exists."""
        async with self._transaction(org_slug=org_slug) as connection:
            yield connection

    @asynccontextmanager
    async def together(self, begin: Callable[[Connection], Awaitable[None]]) -> AsyncIterator[Together]:
        """Make one transaction of all that the running task opens until the context ends, to be committed or undone.

        ``begin`` is called within it before anything else, once there is anything.

        Raises:
            StorageUnavailableError: the database is away, or no connection was free in time.
        """
        async with Together(self._acquire, begin).opened() as together:
            yield together

    def when_committed(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when what the running task has done is committed: now, unless more is to go with it."""
        together = Together.current()
        if together is None:
            callback()
        else:
            together.when_committed(callback)

    @asynccontextmanager
    async def snapshot(self, org_id: OrgId) -> AsyncIterator[Connection]:
        """Open a transaction that sees what an organisation shares as it is at one moment, and changes nothing."""
        async with (
            self._acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            await _see(connection, org_id=str(org_id))
            yield connection

    @asynccontextmanager
    async def platform_transaction(self) -> AsyncIterator[Connection]:
        """Open a transaction that reads the row of every organisation, and nothing of what is theirs."""
        async with self._transaction(platform="on") as connection:
            yield connection

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[Connection]:
        """Lend a connection outside any transaction, for statements that each set whose rows they see."""
        async with self._acquire() as connection:
            yield connection

    async def ping(self) -> None:
        """Make one round trip to the database.

        Raises:
            StorageUnavailableError: the database is away, or no connection was free in time.
        """
        async with self._acquire() as connection:
            await connection.fetchval(_PING)

    async def pending_migrations(self) -> list[str]:
        """Return the names of the migrations that this version needs and the database lacks.

        Raises:
            StartupError: a migration was edited after it was applied.
            StorageUnavailableError: the database is away.
        """
        async with self._acquire() as connection:
            return await pending(connection)

    async def close(self) -> None:
        """Close the pool: connections in use get ``timeout_s`` to come back, then they are cut."""
        try:
            await asyncio.wait_for(self._pool.close(), self._timeout_s)
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def _transaction(
        self, *, org_id: str = "", user_id: str = "", org_slug: str = "", platform: str = ""
    ) -> AsyncIterator[Connection]:
        together = Together.current()
        with _plans():
            async with self._begun() if together is None else together.part() as connection:
                await _see(connection, org_id=org_id, user_id=user_id, org_slug=org_slug, platform=platform)
                yield connection

    @asynccontextmanager
    async def _begun(self) -> AsyncIterator[Connection]:
        async with self._acquire() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def _acquire(self) -> AsyncIterator[Connection]:
        acquired = False
        try:
            async with self._pool.acquire(timeout=self._timeout_s) as connection:
                acquired = True
                try:
                    yield connection
                except asyncpg.InterfaceError as error:
                    # The driver's word for a connection that is closed, and for misuse, which is ours to see.
                    if _is_gone(connection):
                        raise StorageUnavailableError(_AWAY, reason=_reason(error)) from error
                    raise
        except _LOST as error:
            raise StorageUnavailableError(_AWAY, reason=_reason(error)) from error
        except asyncpg.InterfaceError as error:
            if acquired:
                raise
            raise StorageUnavailableError(_AWAY, reason=_reason(error)) from error


async def _see(
    connection: Connection, *, org_id: str = "", user_id: str = "", org_slug: str = "", platform: str = ""
) -> None:
    """Set whose rows the open transaction sees: nobody's, of what is not given."""
    await connection.fetchrow(_SET_CONTEXT, org_id, user_id, org_slug, platform)


@contextmanager
def _plans() -> Iterator[None]:
    """Say in our words that a plan allows no more."""
    try:
        yield
    except asyncpg.PostgresError as error:
        if error.sqlstate != _PLAN_EXCEEDED:
            raise
        raise LimitReachedError(f"The plan of the organisation allows no more {error}.") from error


def _is_gone(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # The pool was terminated and took the connection back.
        return True


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"

"""A queue in PostgreSQL for work that no request waits for, done once among all processes.

PgQueuer does the work: jobs are rows that are taken with ``FOR UPDATE SKIP LOCKED``, a process that dies loses them to
another after ``_HEARTBEAT_S``, and what is periodic is a row too, which one process at a time takes.

Invariants:

* A job is queued inside the transaction of the change that it follows from, and exists if and only if that committed.
* The tables know no tenant, since whoever takes a job cannot know its organisation before. Payloads are sealed, so that
  to read them takes the keyring, and the role that reads the table learns of no organisation, user or upstream.
* A payload is bound to the name of its job alone: its row has no id before it is there. Whoever writes to the table can
  thus have a job done late, twice or never, which queues do anyway, and can make up none. Each job names inside the
  seal what it is about, and looks first whether that still stands.
* A job that fails is tried again later and ever more rarely, and is given up after ``_TRIES``; it holds up no other.
  One whose payload does not open fails so too: while keys are rotated its key may be known to another process alone.
  What failed is told to the log by its type: a message might repeat a secret.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import asyncpg
import structlog
from pgqueuer.core.applications import PgQueuer
from pgqueuer.domain.errors import RetryRequested

from agentapi.jobs import store
from agentapi.jobs.schema import CHANNEL, driver, queries
from agentapi.storage.resealing import SealedColumn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from typing import Any

    from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
    from pgqueuer.domain.models import Job, Schedule

    from agentapi._core import Keyring
    from agentapi.storage.database import Connection

    Work = Callable[[Mapping[str, Any]], Awaitable["Again | None"]]
    """What is done for a job; it returns None when that is done, or when to be asked again."""

__all__ = ["SEALED", "Again", "JobQueue"]

_AT_ONCE: Final = 8
_BATCH: Final = 4
_HEARTBEAT: Final = timedelta(seconds=30)
_CONNECT_AGAIN_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
_STOP_S: Final = 15.0
_TRIES: Final = 20
_LONGEST_WAIT_S: Final = 600
_KEEP_LOG: Final = timedelta(days=1)
_HOURLY: Final = "7 * * * *"

SEALED: Final = (
    SealedColumn(
        table="jobs", column="payload", key=("id",), context=("entrypoint",), aad=lambda row: _aad(row["entrypoint"])
    ),
)
"""What this room keeps sealed, for the rotation of keys."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Again:
    """A job is to be done again, and that is no failure."""

    after: timedelta


class JobQueue:
    """Queues jobs in any transaction, and does those that are due while it runs.

    Args:
        dsn: The database as the application's role; one connection beside the pool serves the queue.
        keyring: Seals payloads.
        timeout_s: Bounds connecting and each statement.
        poll_s: How long a job may wait that no notification told of, such as one that is to be tried again.
    """

    def __init__(self, dsn: str, *, keyring: Keyring, timeout_s: float, poll_s: float = 15.0) -> None:
        self._dsn = dsn
        self._keyring = keyring
        self._timeout_s = timeout_s
        self._poll = timedelta(seconds=poll_s)
        self._work: dict[str, Work] = {}
        self._periodic: dict[str, tuple[str, Callable[[], Awaitable[None]]]] = {}
        self._running: PgQueuer | None = None
        self._stopping = asyncio.Event()

    def handle(self, name: str, work: Work) -> None:
        """Do jobs called ``name`` by ``work``; to be said before the queue runs."""
        self._work[name] = work

    def every(self, name: str, cron: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do ``work`` whenever ``cron`` says so, in one process; to be said before the queue runs."""
        self._periodic[name] = (cron, work)

    async def put(self, connection: Connection, name: str, payload: Mapping[str, Any], *, after: timedelta) -> None:
        """Queue a job in the transaction of ``connection``, to be done once ``after`` has passed."""
        sealed = self._keyring.seal(json.dumps(payload, separators=(",", ":")).encode(), _aad(name))
        await queries(driver(connection)).enqueue(name, sealed, execute_after=max(after, timedelta()))

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Do jobs until the context ends; those under way are then waited for, ``_STOP_S`` at most."""
        task = asyncio.ensure_future(self._supervise())
        try:
            yield
        finally:
            self._stopping.set()
            if self._running is not None:
                self._running.shutdown.set()
            _, unfinished = await asyncio.wait([task], timeout=_STOP_S)
            if unfinished:
                task.cancel()
                await asyncio.wait([task])
            if not task.cancelled():
                task.result()

    async def _supervise(self) -> None:
        """Begin anew whenever the database was away."""
        failures = 0
        while not self._stopping.is_set():
            loop = asyncio.get_running_loop()
            began = loop.time()
            try:
                await self._serve()
            except Exception as error:  # noqa: BLE001 - whatever it was, queued work must go on
                failures = 0 if loop.time() - began > _CONNECT_AGAIN_S[-1] else failures + 1
                _log.warning("jobs_interrupted", error=type(error).__name__)
            with suppress(TimeoutError):
                wait_s = _CONNECT_AGAIN_S[min(failures, len(_CONNECT_AGAIN_S) - 1)]
                await asyncio.wait_for(self._stopping.wait(), wait_s)

    async def _serve(self) -> None:
        connection = await asyncpg.connect(
            self._dsn,
            timeout=self._timeout_s,
            command_timeout=self._timeout_s,
            server_settings={"application_name": "agentapi-jobs"},
        )
        try:
            over = driver(connection)
            queue = PgQueuer(over, channel=CHANNEL, queries=queries(over))
            self._register(queue, over)
            self._running = queue
            if not self._stopping.is_set():
                await queue.run(
                    dequeue_timeout=self._poll,
                    batch_size=_BATCH,
                    max_concurrent_tasks=_AT_ONCE,
                    heartbeat_timeout=_HEARTBEAT,
                    log_aggregation_interval=timedelta(),
                )
        finally:
            self._running = None
            with suppress(Exception):
                await connection.close(timeout=self._timeout_s)

    def _register(self, queue: PgQueuer, over: AsyncpgDriver) -> None:
        for name, work in self._work.items():

            async def do(job: Job, work: Work = work) -> None:
                await self._do(job, work)

            queue.entrypoint(name, accepts_context=False)(do)

        async def prune() -> None:
            await store.prune(over, keep=_KEEP_LOG)

        for name, (cron, periodic) in {**self._periodic, "jobs.prune": (_HOURLY, prune)}.items():

            async def tick(_: Schedule, name: str = name, periodic: Callable[[], Awaitable[None]] = periodic) -> None:
                try:
                    await periodic()
                except Exception as error:  # noqa: BLE001 - the library would log its message
                    _log.error("periodic_job_failed", job=name, error=type(error).__name__)

            queue.schedule(name, cron, accepts_context=False)(tick)

    async def _do(self, job: Job, work: Work) -> None:
        again: Again | None
        try:
            again = await work(json.loads(self._keyring.open(job.payload or b"", _aad(job.entrypoint))))
        except Exception as error:  # noqa: BLE001 - the library would store its message and traceback
            if job.attempts + 1 >= _TRIES:
                _log.error("job_given_up", job=job.entrypoint, error=type(error).__name__)
                return
            _log.warning("job_failed", job=job.entrypoint, attempt=job.attempts + 1, error=type(error).__name__)
            again = Again(timedelta(seconds=min(_LONGEST_WAIT_S, 2.0 ** min(job.attempts, 10))))
        if again is not None:
            raise RetryRequested(max(again.after, timedelta(seconds=1))) from None


def _aad(name: str) -> bytes:
    return f"jobs.payload/{name}".encode()

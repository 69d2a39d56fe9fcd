"""What other processes change, told by the database as it commits, so that what is remembered here can be dropped.

Triggers on the tables (migration 0017) send one line with a topic and ids, and never what a row holds. Each process
listens on one connection beside its pool, and asks itself on it, some times a second, whether it still hears: it sends
a ping and waits for it to come back. PostgreSQL delivers what is told in the order of commits, so a ping that came back
says that every change committed before it was sent has been heard.

Invariants:

* ``hears`` is true only where each change that was committed more than ``within_s`` ago has been told to the listeners.
  A lost connection, a frozen server, a pooler that passes no notifications on or a busy process make it false, and
  whoever remembers something asks the database again within that time. Nothing rests on a message that arrives.
* After each connecting the listeners are told that anything may have been missed.
* Whoever can connect can send any line, since PostgreSQL asks no right for it. So a line is believed for no more than
  that something is to be read again.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import defaultdict
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID, uuid4

import asyncpg
import structlog

from agentapi.principal import OrgId, UserId, WorkspaceId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    Changed = Callable[["Change"], None]
    Missed = Callable[[], None]

__all__ = ["CHANNEL", "DEAF", "WITHIN_S", "Change", "ChangeFeed", "Notifier"]

CHANNEL: Final = "agentapi_changes"
"""Where the triggers tell."""
WITHIN_S: Final = 1.0
"""How long a change may go unnoticed in another process."""

_ID: Final = r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
_LINE: Final = re.compile(rf"([a-z_]{{1,63}}) {_ID} (?:{_ID}|-) (?:{_ID}|-) (?:{_ID}|-)")
_PING: Final = "SELECT pg_notify($1, $2)"
_TELL: Final = "SELECT pg_notify($1, line) FROM unnest($2::text[]) line"
_MAX_OUTBOX: Final = 1_000
_TOGETHER_S: Final = 0.05
"""How long lines wait for others, so that what changes all the time costs little."""
_CONNECT_AGAIN_S: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
_DEAF_S: Final = 5.0
"""So long after connecting the log is told that no ping has come back."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """Something was added, changed or removed; of the ids those are given that it has."""

    topic: str
    """The table, unless the migration says otherwise."""
    org_id: OrgId
    """That of the deployment, all zeros, where the row is no organisation's."""
    workspace_id: WorkspaceId | None = None
    user_id: UserId | None = None
    """Whose the row is, where it is one person's."""
    id: UUID | None = None

    @property
    def line(self) -> str:
        """The change as it is sent."""
        return " ".join(
            (self.topic, str(self.org_id), *(str(each or "-") for each in (self.workspace_id, self.user_id, self.id)))
        )

    @classmethod
    def read(cls, line: str) -> Change | None:
        """Return the change that ``line`` tells of, or None if it is no such line."""
        match = _LINE.fullmatch(line)
        if match is None:
            return None
        topic, org_id, *ids = match.groups()
        workspace_id, user_id, row_id = (None if each is None else UUID(each) for each in ids)
        return cls(
            topic,
            OrgId(UUID(org_id)),
            None if workspace_id is None else WorkspaceId(workspace_id),
            None if user_id is None else UserId(user_id),
            row_id,
        )


class ChangeFeed(Protocol):
    """What a room is handed that remembers what it read."""

    @property
    def hears(self) -> bool:
        """Whether each change that was committed more than ``WITHIN_S`` ago has been told."""

    def listen(self, topics: tuple[str, ...], changed: Changed, missed: Missed) -> None:
        """Call ``changed`` with each change of ``topics``, and ``missed`` when any may have gone by untold.

        Neither is awaited, and neither may raise.
        """

    def tell(self, change: Change) -> None:
        """Tell the other processes of what changed outside the database."""


class _Deaf:
    """Hears nothing: for a room whose process does not listen."""

    hears = False

    def listen(self, topics: tuple[str, ...], changed: Changed, missed: Missed) -> None:
        """Tell nothing."""

    def tell(self, change: Change) -> None:
        """Tell nobody."""


DEAF: Final[ChangeFeed] = _Deaf()


class Notifier:
    """Tells the rooms of a process what others have changed; satisfies ``ChangeFeed``.

    Args:
        dsn: The database as the application's role.
        timeout_s: Bounds connecting and each statement.
        clock: Monotonic seconds.
        every_s: How often it is made sure that notifications arrive.
        within_s: How long a change may go unnoticed.
    """

    def __init__(
        self,
        dsn: str,
        *,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = 0.25,
        within_s: float = WITHIN_S,
    ) -> None:
        self._dsn = dsn
        self._timeout_s = timeout_s
        self._clock = clock
        self._every_s = every_s
        self._within_s = within_s
        self._listeners: defaultdict[str, list[Changed]] = defaultdict(list)
        self._missed: list[Missed] = []
        self._returned = -math.inf
        """When the last ping was sent that came back."""
        self._sent: dict[str, float] = {}
        self._pid = 0
        self._warned = False
        self._heard = asyncio.Event()
        self._outbox: dict[str, None] = {}
        self._filled = asyncio.Event()

    @property
    def hears(self) -> bool:
        """Whether each change that was committed more than ``within_s`` ago has been told."""
        return self._clock() - self._returned < self._within_s

    def listen(self, topics: tuple[str, ...], changed: Changed, missed: Missed) -> None:
        """Call ``changed`` with each change of ``topics``, and ``missed`` when any may have gone by untold."""
        for topic in topics:
            self._listeners[topic].append(changed)
        self._missed.append(missed)

    def tell(self, change: Change) -> None:
        """Tell the other processes of what changed outside the database, soon and once however often it is said.

        What cannot be sent is dropped: they learn of it when they ask again by themselves.
        """
        if len(self._outbox) < _MAX_OUTBOX:
            self._outbox[change.line] = None
            self._filled.set()

    async def wait(self) -> None:
        """Return once a ping has come back since the last connecting."""
        await self._heard.wait()

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Listen for the length of the context, connecting again whenever the connection is lost."""
        task = asyncio.ensure_future(self._supervise())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _supervise(self) -> None:
        failures = 0
        while True:
            began = self._clock()
            try:
                await self._serve()
            except Exception as error:  # noqa: BLE001 - whatever it was, changes have to be heard again
                failures = 0 if self._clock() - began > _DEAF_S else failures + 1
                self._warn(type(error).__name__)
            self._heard.clear()
            await asyncio.sleep(_CONNECT_AGAIN_S[min(failures, len(_CONNECT_AGAIN_S) - 1)])

    async def _serve(self) -> None:
        # A channel of its own for the pings, so that no process wakes for those of another. Nobody waits for the disk
        # over them either.
        echo = f"agentapi_echo_{uuid4().hex}"
        connection = await asyncpg.connect(
            self._dsn,
            timeout=self._timeout_s,
            command_timeout=self._timeout_s,
            server_settings={"application_name": "agentapi-changes", "synchronous_commit": "off"},
        )
        self._pid = connection.get_server_pid()
        try:
            await connection.add_listener(CHANNEL, self._tell)
            await connection.add_listener(echo, self._came_back)
            # What was told before there was anybody to hear it is gone.
            for missed in self._missed:
                missed()
            deaf_at = self._clock() + _DEAF_S
            while True:
                ping, now = uuid4().hex, self._clock()
                # One that did not come back by the time of the next never will, or is of no more use.
                self._sent = {ping: now}
                await connection.execute(_PING, echo, ping)
                if not self._heard.is_set() and now >= deaf_at:
                    deaf_at = math.inf
                    self._warn("notifications do not arrive; is a pooler in between?")
                await self._send_until(connection, now + self._every_s)
        finally:
            self._sent = {}
            with suppress(Exception):
                await connection.close(timeout=self._timeout_s)

    async def _send_until(self, connection: asyncpg.Connection[asyncpg.Record], end: float) -> None:
        """Send what there is to tell, until it is time for the next ping."""
        while (left_s := end - self._clock()) > 0:
            try:
                await asyncio.wait_for(self._filled.wait(), left_s)
            except TimeoutError:
                return
            await asyncio.sleep(min(_TOGETHER_S, self._every_s))
            lines = list(self._outbox)
            self._outbox.clear()
            self._filled.clear()
            await connection.execute(_TELL, CHANNEL, lines)

    def _came_back(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        sent = self._sent.pop(str(payload), None)
        if sent is not None:
            self._returned = sent
            self._heard.set()
            if self._warned:
                self._warned = False
                _log.info("changes_heard_again")

    def _warn(self, reason: str) -> None:
        """Say once that nothing is heard, and not with every attempt."""
        if not self._warned:
            self._warned = True
            _log.warning("changes_unheard", reason=reason)

    def _tell(self, _connection: object, pid: int, _channel: str, payload: object) -> None:
        if pid == self._pid:
            # What this process told the others it knows.
            return
        change = Change.read(str(payload))
        if change is None:
            # Not from a trigger; whoever sent it learns nothing by it, and the log is not theirs to fill.
            return
        for changed in self._listeners.get(change.topic, ()):
            try:
                changed(change)
            except Exception:  # noqa: BLE001 - one room's mistake must not keep a change from the others
                _log.exception("change_listener_failed", topic=change.topic)

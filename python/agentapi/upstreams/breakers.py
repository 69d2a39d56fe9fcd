"""Circuits in front of upstreams: one that fails again and again is left alone for a while, and told so at once.

Invariants:

* A circuit belongs to one upstream of one organisation, in one version and for one operation (DESIGN.md 3.9), so that
  no organisation's server opens anything for another, and a server that cannot list may still be called. Commands run
  as processes of each user, so that theirs are each user's own.
* What is the caller's doing counts for nothing: an answer of the protocol, an error among them, is a success; a refused
  or missing credential, an HTTP 4xx, a caller who left, and whatever kept the gateway from asking say nothing.
* Opening and closing are told to the log once each.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import structlog
from mcp import MCPError

from agentapi._core import CircuitBreakers
from agentapi.errors import UpstreamError, UpstreamNeedsConnectionError, UpstreamRestsError, UpstreamUnaskedError
from agentapi.upstreams.failures import CredentialRefusedError, RefusedError, UnprocessedError
from agentapi.upstreams.models import Transport

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Literal, Self

    from agentapi._core import Circuit, CircuitSnapshot, Ticket
    from agentapi.principal import UpstreamId, UserId
    from agentapi.upstreams.models import Upstream

    Outcome = Literal["success", "failure", "neutral"]

__all__ = ["UNGUARDED", "Guard", "Operation", "UpstreamBreakers", "outcome_of"]

_MAX_CIRCUITS: Final = 10_000
_SILENT: Final = (
    CredentialRefusedError,
    RefusedError,
    UnprocessedError,
    UpstreamNeedsConnectionError,
    UpstreamUnaskedError,
)
"""Errors about an upstream that say nothing of its health."""

_log = structlog.get_logger(__name__)


class Operation(StrEnum):
    """What is asked of an upstream; each has a circuit of its own."""

    CONNECT = "connect"
    LIST_TOOLS = "list_tools"
    """Its other lists as well."""
    CALL_TOOL = "call_tool"
    """All other requests as well."""
    DISCONNECT = "disconnect"
    TEST_CONNECTION = "test_connection"

    @classmethod
    def of(cls, method: str) -> Operation:
        """Return the operation that a request of ``method`` is."""
        return cls.LIST_TOOLS if method.endswith("/list") else cls.CALL_TOOL


def outcome_of(error: BaseException) -> Outcome:
    """Return what a failed operation says of the upstream."""
    if isinstance(error, MCPError):
        return "success"
    if isinstance(error, UpstreamError) and not isinstance(error, _SILENT):
        return "failure"
    return "neutral"


class Guard:
    """One operation under its circuit: entering it asks whether it may be, leaving it says how it went."""

    __slots__ = ("_circuit", "_name", "_now_ns", "_operation", "_ticket")

    def __init__(
        self, circuit: Circuit | None, operation: Operation, name: str, now_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._circuit = circuit
        self._operation = operation
        self._name = name
        self._now_ns = now_ns
        self._ticket: Ticket | None = None

    def __enter__(self) -> Self:
        """Begin; see there."""
        self.begin()
        return self

    def begin(self) -> None:
        """Ask whether the operation may be.

        Raises:
            UpstreamRestsError: The circuit is open.
        """
        if self._circuit is None:
            return
        ticket = self._circuit.allow_at(self._now_ns())
        if not ticket.allowed:
            raise UpstreamRestsError(
                f"Upstream '{self._name}' has failed too often of late; try again in {ticket.retry_after_s} s.",
                retry_after_s=ticket.retry_after_s,
            )
        self._ticket = ticket

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End; the error goes on."""
        self.record("success" if error is None else outcome_of(error))

    def record(self, outcome: Outcome) -> None:
        """Say how it went, where that is known before the end; the first word counts."""
        ticket, self._ticket = self._ticket, None
        if ticket is None or self._circuit is None:
            return
        change = ticket.record_at(outcome, self._now_ns())
        if change is not None:
            tell = _log.warning if change == "opened" else _log.info
            tell(f"circuit_{change}", upstream=self._name, operation=self._operation.value, circuit=self._circuit.key)


UNGUARDED: Final = Guard(None, Operation.CALL_TOOL, "")
"""Lets everything be."""


class UpstreamBreakers:
    """The circuits of all upstreams in this process.

    Args:
        breakers: By default with the rules of all others.
        now_ns: Their clock.
    """

    def __init__(
        self, breakers: CircuitBreakers | None = None, *, now_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._breakers = CircuitBreakers(capacity=_MAX_CIRCUITS) if breakers is None else breakers
        self._now_ns = now_ns
        self._circuits: OrderedDict[tuple[UpstreamId, int, Operation, UserId | None], Circuit] = OrderedDict()
        """Those in use, so that their names are not written out for every request."""

    def guard(self, upstream: Upstream, user_id: UserId, operation: Operation) -> Guard:
        """Return the guard of one operation, to be entered once."""
        owner = user_id if upstream.transport is Transport.STDIO else None
        place = (upstream.id, upstream.version, operation, owner)
        circuit = self._circuits.get(place)
        if circuit is None:
            circuit = self._breakers.circuit(_key(upstream, operation, owner), self._now_ns())
            self._circuits[place] = circuit
            if len(self._circuits) > _MAX_CIRCUITS:
                self._circuits.popitem(last=False)
        return Guard(circuit, operation, upstream.name, self._now_ns)

    def snapshots(self, upstream: Upstream, user_id: UserId) -> dict[Operation, CircuitSnapshot]:
        """Return the circuits of an upstream as ``user_id`` meets them."""
        owner = user_id if upstream.transport is Transport.STDIO else None
        now = self._now_ns()
        return {each: self._breakers.snapshot(_key(upstream, each, owner), now) for each in Operation}

    def tripped(self) -> int:
        """Return how many circuits are not closed."""
        return len(self._breakers.tripped(self._now_ns()))


def _key(upstream: Upstream, operation: Operation, owner: UserId | None) -> str:
    whose = "" if owner is None else f"/{owner}"
    return f"{upstream.org_id}/{upstream.id}/{upstream.version}/{operation}{whose}"

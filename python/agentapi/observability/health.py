"""Liveness, readiness and health out of probes that others give; this module knows no part of the gateway.

``/live`` says that the event loop turns; ``/ready`` that traffic may come (critical probes, and not
draining); ``/health`` how each part is. None of them tells an address, a tenant or the text of an error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import anyio
import structlog
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["Health", "HealthBoard", "PartHealth", "Probe", "Status"]

_log = structlog.get_logger(__name__)
_NO_STORE: Final = {"cache-control": "no-store"}


class Status(StrEnum):
    """How a part, or the whole, is."""

    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"


Details = Mapping[str, bool | int | float | str]
"""Facts for ``/health``, for example ``{"shared": False}``; public, so never an address or a tenant."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One part and how to ask after it."""

    name: str
    check: Callable[[], Awaitable[Details | None]]
    """Raises when the part is not well; returns facts about it, or None."""
    critical: bool = True
    """Whether the gateway is useless without the part."""


@dataclass(frozen=True, slots=True)
class PartHealth:
    """What a probe found."""

    status: Status
    critical: bool
    latency_ms: float
    details: Details

    def as_dict(self) -> dict[str, object]:
        """Return the part as it stands in ``/health``."""
        shown: dict[str, object] = {
            "status": self.status.value,
            "critical": self.critical,
            "latency_ms": self.latency_ms,
        }
        return {**shown, "details": dict(self.details)} if self.details else shown


@dataclass(frozen=True, slots=True)
class Health:
    """The whole: down if a critical part is down, degraded if another is."""

    status: Status
    parts: Mapping[str, PartHealth]


class HealthBoard:
    """Run the probes side by side, each for a bounded time, and remember the outcome for a moment.

    The memory bounds what a stranger can cost the parts by asking again and again; one round runs at a time.
    """

    def __init__(
        self,
        probes: Iterable[Probe],
        *,
        timeout_s: float = 2.0,
        cache_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probes = tuple(probes)
        if len({probe.name for probe in self._probes}) != len(self._probes):
            raise ValueError("two probes have the same name")
        self._timeout_s = timeout_s
        self._cache_s = cache_s
        self._clock = clock
        self._known: Health | None = None
        self._known_at = 0.0
        self._round = asyncio.Lock()
        self._draining = False
        self._unwell: set[str] = set()
        """The log is told of a change, however often somebody asks."""

    def drain(self) -> None:
        """Answer ``/ready`` with 503 from now on, so that a load balancer sends no more."""
        self._draining = True

    @property
    def draining(self) -> bool:
        """Whether ``drain`` was called."""
        return self._draining

    async def health(self) -> Health:
        """Return how the parts are, at most ``cache_s`` old."""
        async with self._round:
            if self._known is None or self._clock() - self._known_at >= self._cache_s:
                parts = await asyncio.gather(*(self._ask(probe) for probe in self._probes))
                found = {probe.name: part for probe, part in zip(self._probes, parts, strict=True)}
                self._known = Health(_overall(found.values()), found)
                self._known_at = self._clock()
            return self._known

    async def ready(self) -> bool:
        """Return whether traffic may come."""
        return not self._draining and (await self.health()).status is not Status.DOWN

    def routes(self) -> list[Route]:
        """Return the routes ``/live``, ``/ready`` and ``/health``."""
        return [
            Route("/live", self._live, methods=["GET"], include_in_schema=False),
            Route("/ready", self._ready, methods=["GET"], include_in_schema=False),
            Route("/health", self._health, methods=["GET"], include_in_schema=False),
        ]

    async def _ask(self, probe: Probe) -> PartHealth:
        started = self._clock()
        status, details = Status.DOWN, None
        try:
            with anyio.fail_after(self._timeout_s):
                details = await probe.check()
            status = Status.OK
        except TimeoutError:
            if probe.name not in self._unwell:
                _log.warning("probe_timed_out", probe=probe.name)
        except Exception as error:  # noqa: BLE001 - whatever a probe raises says that its part is not well
            if probe.name not in self._unwell:
                _log.warning("probe_failed", probe=probe.name, error=type(error).__name__, reason=str(error))
        if status is Status.DOWN:
            self._unwell.add(probe.name)
        elif probe.name in self._unwell:
            self._unwell.discard(probe.name)
            _log.info("probe_recovered", probe=probe.name)
        latency_ms = round((self._clock() - started) * 1000, 2)
        return PartHealth(status, probe.critical, latency_ms, details or {})

    async def _live(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"}, headers=_NO_STORE)

    async def _ready(self, _request: Request) -> Response:
        ready = await self.ready()
        word = "ready" if ready else "draining" if self._draining else "not_ready"
        return JSONResponse({"status": word}, status_code=200 if ready else 503, headers=_NO_STORE)

    async def _health(self, _request: Request) -> Response:
        health = await self.health()
        body = {
            "status": health.status.value,
            "draining": self._draining,
            "parts": {name: part.as_dict() for name, part in health.parts.items()},
        }
        return JSONResponse(body, status_code=503 if health.status is Status.DOWN else 200, headers=_NO_STORE)


def _overall(parts: Iterable[PartHealth]) -> Status:
    unwell = [part for part in parts if part.status is not Status.OK]
    if any(part.critical for part in unwell):
        return Status.DOWN
    return Status.DEGRADED if unwell else Status.OK

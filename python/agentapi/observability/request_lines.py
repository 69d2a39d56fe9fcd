"""The line of each request: there are as many of it as of all other lines together, so it has a shorter way.

What it has in common with the last one of its caller is rendered once, by the rules of all others: redaction, JSON.
"""

from __future__ import annotations

import json
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import structlog

from agentapi.observability.redaction import redact, scrub

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from structlog.typing import FilteringBoundLogger, Processor

__all__ = ["COMMON", "RequestLines", "log_request", "write_requests_by"]

COMMON: Final = ("method", "path", "org", "workspace", "user_id", "error")
"""What one request has in common with others; None is left out."""

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False)


class RequestLines:
    """Writes them as JSON.

    Args:
        write: Takes a line.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._second = 0
        self._stamp = ""

    def write(self, request_id: str, status: int, duration_ms: float, bytes_out: int, *common: Hashable) -> None:
        """Write the line of a request, with the values of ``COMMON``."""
        second, fraction_us = divmod(time.time_ns() // 1000, 1_000_000)
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        self._write(
            f'{_common_part(common)}"status": {status:d}, "duration_ms": {duration_ms!r}, "bytes_out": {bytes_out:d}, '
            f'"request_id": "{scrub(request_id)}", "level": "info", "timestamp": "{self._stamp}.{fraction_us:06d}Z"}}'
        )


_ways: list[tuple[Processor, RequestLines]] = []
"""One at most, beside the processor that tells whether it is the one in force."""


def write_requests_by(processors: Sequence[Processor], lines: RequestLines | None) -> None:
    """Have ``log_request`` write by ``lines`` for as long as structlog runs ``processors``, which do the same."""
    _ways[:] = [] if lines is None else [(processors[-1], lines)]


def log_request(
    logger: FilteringBoundLogger, request_id: str, status: int, duration_ms: float, bytes_out: int, *common: Hashable
) -> None:
    """Log a request that has ended, with the values of ``COMMON``; by ``logger`` where no shorter way is set up."""
    for last, lines in _ways:
        if structlog.get_config()["processors"][-1] is last:
            lines.write(request_id, status, duration_ms, bytes_out, *common)
            return
    measured = {"status": status, "duration_ms": duration_ms, "bytes_out": bytes_out}
    told = {name: value for name, value in zip(COMMON, common, strict=True) if value is not None}
    logger.info("request", request_id=request_id, **measured, **told)


@lru_cache(maxsize=1024)
def _common_part(common: tuple[Hashable, ...]) -> str:
    told = {name: value for name, value in zip(COMMON, common, strict=True) if value is not None}
    return _ENCODER.encode(redact(None, "info", {"event": "request", **told})).removesuffix("}") + ", "

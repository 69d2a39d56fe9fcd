"""Why a connection could not be opened, and whom that concerns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2
import structlog

from agentapi.errors import (
    UpstreamNeedsConnectionError,
    UpstreamRestsError,
    UpstreamTimeoutError,
    UpstreamUnaskedError,
    first_leaf,
)
from agentapi.upstreams.failures import CredentialRefusedError, failed_with
from agentapi.upstreams.models import Transport
from agentapi.upstreams.reasons import reason_of

if TYPE_CHECKING:
    from agentapi.errors import UpstreamError
    from agentapi.upstreams.channel import Channel

__all__ = ["is_everybodys", "opening_failure"]

_log = structlog.get_logger(__name__)


def opening_failure(error: Exception, channel: Channel | None, name: str) -> UpstreamError:
    """Return in words what kept a connection to the upstream ``name`` from being opened."""
    leaf = first_leaf(error)
    if isinstance(leaf, UpstreamNeedsConnectionError | UpstreamRestsError):
        return leaf
    if isinstance(leaf, UpstreamUnaskedError):
        return UpstreamUnaskedError(f"Upstream '{name}' is unavailable: {leaf.message}.")
    status = channel.last_status() if channel is not None else None
    reason = reason_of(error, status)
    refusal = channel.refusal() if channel is not None else None
    if refusal is not None:
        return CredentialRefusedError(f"Upstream '{name}' is unavailable: {reason}.", refusal)
    too_late = isinstance(leaf, UpstreamTimeoutError)
    if channel is not None and not too_late:
        reason = channel.ending() or reason
    _log.info("upstream_connection_failed", upstream=name, reason=reason)
    message = f"Upstream '{name}' is unavailable: {reason}."
    return UpstreamTimeoutError(message) if too_late else failed_with(status, message)


def is_everybodys(error: Exception, channel: Channel | None) -> bool:
    """Return whether others who connect would fare alike: nobody is there, or nobody answers in time.

    Each user has processes of their own, and what became of one says nothing of another.
    """
    own_process = channel is not None and channel.kind is Transport.STDIO
    absent = httpx2.ConnectError | httpx2.ConnectTimeout | TimeoutError | UpstreamTimeoutError
    return not own_process and isinstance(first_leaf(error), absent)

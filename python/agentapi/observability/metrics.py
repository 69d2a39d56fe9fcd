"""Counters of the process, in one registry that knows nothing but what is declared here.

A label's values are from a small fixed set, never text that somebody sent: each costs memory for as long as the process
lives, and a token would be readable to whoever may read metrics.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter

__all__ = ["OAUTH_EVENTS", "RATE_LIMITED", "REDIS_EVENTS", "REGISTRY"]

REGISTRY: Final = CollectorRegistry(auto_describe=True)

OAUTH_EVENTS: Final = Counter(
    "agentapi_oauth_events",
    "What happened to users' OAuth connections, by provider.",
    ("event", "provider"),
    registry=REGISTRY,
)

RATE_LIMITED: Final = Counter(
    "agentapi_rate_limited",
    "Requests that had to wait, by the limit that had them wait longest.",
    ("limit",),
    registry=REGISTRY,
)

REDIS_EVENTS: Final = Counter(
    "agentapi_redis_events",
    "Operations on Redis that failed, and how often it was given up (opened) and taken up again (closed).",
    ("event",),
    registry=REGISTRY,
)

"""Counters of the process, in one registry that knows nothing but what is declared here.

A label's values are from a small fixed set, never text that somebody sent: each costs memory for as long as the process
lives, and a token would be readable to whoever may read metrics.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter

__all__ = ["OAUTH_EVENTS", "REGISTRY"]

REGISTRY: Final = CollectorRegistry(auto_describe=True)

OAUTH_EVENTS: Final = Counter(
    "agentapi_oauth_events",
    "What happened to users' OAuth connections, by provider.",
    ("event", "provider"),
    registry=REGISTRY,
)

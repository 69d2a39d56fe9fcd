"""A signing key, and which of several signs, is published or is over: decided by time alone, the same everywhere.

* A key is published as soon as it is there, and signs ``PUBLISHED_AHEAD`` later: by then whoever keeps a copy of the
  key set has fetched it again. The first one signs at once, since nobody can have a copy.
* Of those that may sign, the one that began last does.
* A key is over once the last token that it can have signed has ended, wherever that was: it is superseded at the time
  of the next one, ``SLACK`` later every process knows, and no token lives longer than ``MAX_TOKEN_LIFE``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

__all__ = ["MAX_TOKEN_LIFE", "PUBLISHED_AHEAD", "SLACK", "SigningKey", "is_over", "needs_next", "signing_now"]

MAX_TOKEN_LIFE: Final = timedelta(days=1)
"""The longest that a token may be good for."""
PUBLISHED_AHEAD: Final = timedelta(minutes=10)
"""Twice as long as the key set says it may be kept."""
SLACK: Final = timedelta(minutes=10)
"""How much later than its time a key may still sign: in processes that have not read the next one, by other clocks."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key as it is stored."""

    id: str
    public: dict[str, Any]
    """The public key as a JWK (RFC 7517)."""
    private: bytes = field(repr=False)
    """The private one, sealed."""
    created_at: datetime
    signs_from: datetime


def signing_now(keys: Iterable[SigningKey], now: datetime) -> SigningKey | None:
    """Return the key that signs."""
    return max((key for key in keys if key.signs_from <= now), key=_order, default=None)


def needs_next(keys: Iterable[SigningKey], now: datetime, *, rotate_after: timedelta) -> bool:
    """Return whether it is time for a key behind the newest one."""
    newest = max(keys, key=_order, default=None)
    return newest is None or newest.signs_from + rotate_after - PUBLISHED_AHEAD <= now


def is_over(key: SigningKey, keys: Iterable[SigningKey], now: datetime) -> bool:
    """Return whether no token of ``key`` can be good any more."""
    later = min((other.signs_from for other in keys if _order(other) > _order(key)), default=None)
    return later is not None and later + MAX_TOKEN_LIFE + SLACK <= now


def _order(key: SigningKey) -> tuple[datetime, datetime, str]:
    return key.signs_from, key.created_at, key.id

"""What limits say about a request, whoever decided, and how a client is told.

The fields are those of draft-ietf-httpapi-ratelimit-headers (revision 11), as Structured Fields (RFC 9651). A policy
is told as what is safe to do: a client that sends no more than the burst in the time in which a bucket becomes full is
never refused. Only one limit is told, the one with the least left: the others would tell of other people's requests.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from agentapi._core import Limit

__all__ = ["Asked", "Fields", "Standing", "name_of"]

Asked = tuple[str, "Limit", int]
"""The key of a bucket, which begins with the kind of limit and a slash; its limit; and what the request costs there."""
Fields = tuple[tuple[bytes, bytes], tuple[bytes, bytes]]

_SECOND_NS: Final = 1_000_000_000


class Standing(NamedTuple):
    """Where a request stands with the limit that matters most: the one it waits for longest, or has least left of."""

    allowed: bool
    asked: Asked
    remaining: int
    retry_after_ns: int
    """How long until the same request can be admitted; 0 unless refused."""
    reset_ns: int
    """How long until the bucket is full."""

    @property
    def name(self) -> str:
        """The kind of limit."""
        return name_of(self.asked)

    @property
    def retry_after_s(self) -> int:
        """How long to wait, in whole seconds, rounded up."""
        return -(-self.retry_after_ns // _SECOND_NS)

    @property
    def is_short(self) -> bool:
        """Whether less than half is left, from where on a client is told; before that there is nothing to pace."""
        return self.remaining * 2 < self.asked[1].burst

    @property
    def fields(self) -> Fields:
        """The header fields ``RateLimit-Policy`` and ``RateLimit``.

        ``t`` is when one token more will be there, so that until then no more than ``r`` can be used.
        """
        key, limit, _ = self.asked
        more_in_ns = self.reset_ns - max(limit.burst - self.remaining - 1, 0) * limit.interval_ns
        policy, name = _policy(key.partition("/")[0], limit)
        return policy, (b"ratelimit", b"%b;r=%d;t=%d" % (name, self.remaining, -(-more_in_ns // _SECOND_NS)))


def name_of(asked: Asked) -> str:
    """Return the kind of limit that is asked."""
    return asked[0].partition("/")[0]


@lru_cache(maxsize=1024)
def _policy(name: str, limit: Limit) -> tuple[tuple[bytes, bytes], bytes]:
    window_s = -(-limit.burst * limit.interval_ns // _SECOND_NS)
    return (b"ratelimit-policy", f'"{name}";q={limit.burst};w={window_s}'.encode()), f'"{name}"'.encode()

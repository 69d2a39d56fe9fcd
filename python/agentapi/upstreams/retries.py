"""Trying again: only what may be tried again, ever later, and never so much that a brown-out grows by it.

Invariants:

* A request is tried again only if its caller says that asking twice does no harm (DESIGN.md 3.11), and only where it
  failed in a way that passes: the connection broke, or the server said that it is busy or away.
* All tries together have the time of one, waits included.
* Of the requests to one upstream a tenth at most is tried again, beside a few to begin with.

tenacity keeps the loop; the waits are "full jitter" (Brooker, "Exponential Backoff and Jitter", 2015): anything up to a
bound that doubles, so that callers who failed together do not come back together.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_any, stop_before_delay
from tenacity.stop import stop_base
from tenacity.wait import wait_random_exponential

from agentapi.egress.http1 import ConnectionEndedError
from agentapi.errors import UpstreamError
from agentapi.upstreams.failures import ClosedError, HttpFailureError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tenacity import RetryCallState

    from agentapi.principal import UpstreamId
    from agentapi.upstreams.models import Upstream

__all__ = ["Retries", "may_pass", "retry_after_of"]

_TRIES: Final = 3
_FIRST_S: Final = 0.1
_LONGEST_S: Final = 2.0
_MAX_UPSTREAMS: Final = 10_000
_BUSY: Final = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_EARNED: Final = 0.1
_MOST: Final = 10.0
_WAIT: Final = wait_random_exponential(multiplier=_FIRST_S, max=_LONGEST_S)
_LONGEST_TEXT: Final = 64

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")


def may_pass(error: BaseException) -> bool:
    """Return whether the same request may fare better in a moment."""
    if isinstance(error, HttpFailureError):
        return error.status in _BUSY
    return isinstance(error, ClosedError | ConnectionEndedError)


def retry_after_of(value: str | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float | None:
    """Return the seconds that a ``Retry-After`` asks for (RFC 9110, section 10.2.3); None if it is no such value."""
    if value is None or len(value) > _LONGEST_TEXT:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - now()).total_seconds())


class Retries:
    """Tries again, within a budget for each upstream.

    Args:
        sleep: Waits for so many seconds.
    """

    def __init__(self, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._sleep = sleep
        self._budgets: OrderedDict[UpstreamId, float] = OrderedDict()

    async def run(
        self,
        upstream: Upstream,
        attempt: Callable[[float], Awaitable[_T]],
        *,
        within_s: float,
        unless: Callable[[], bool] = lambda: False,
    ) -> _T:
        """Return what ``attempt`` returns, the first time or a later one.

        Args:
            upstream: Who is asked, by something that may be asked twice.
            attempt: Asks once, in so many seconds.
            within_s: The time of all tries.
            unless: Tells that the client has heard of a try, so that there is no other one.

        Raises:
            Exception: What the last ``attempt`` raised.
        """
        self._earn(upstream)
        time = asyncio.get_running_loop().time
        end = time() + within_s
        try:
            return await attempt(within_s)
        except UpstreamError as error:
            if not may_pass(error) or unless():
                raise
            first: list[UpstreamError] = [error]

        async def once() -> _T:
            """Fail as the first try did, and then try anew."""
            if first:
                raise first.pop()
            return await attempt(max(0.0, end - time()))

        def again(error: BaseException) -> bool:
            return may_pass(error) and not unless()

        def tell(state: RetryCallState) -> None:
            _log.info("upstream_retried", upstream=upstream.name, attempt=state.attempt_number + 1)

        retrying = AsyncRetrying(
            sleep=self._sleep,
            wait=_wait,
            # In this order, so that nothing is spent on a try that is not made.
            stop=stop_any(stop_after_attempt(_TRIES), stop_before_delay(end - time()), _Spent(self, upstream)),
            retry=retry_if_exception(again),
            before_sleep=tell,
            reraise=True,
        )
        return await retrying(once)

    def _earn(self, upstream: Upstream) -> None:
        held = self._budgets.get(upstream.id)
        if held is None:
            self._budgets[upstream.id] = _MOST
            if len(self._budgets) > _MAX_UPSTREAMS:
                self._budgets.popitem(last=False)
        elif held < _MOST:
            self._budgets[upstream.id] = min(_MOST, held + _EARNED)

    def spend(self, upstream: Upstream) -> bool:
        """Take one try out of the budget; return whether there was one."""
        held = self._budgets.get(upstream.id, _MOST)
        if held < 1.0:
            return False
        self._budgets[upstream.id] = held - 1.0
        return True


class _Spent(stop_base):
    """Stops where the budget is used up, and takes a try out of it where it is not."""

    def __init__(self, retries: Retries, upstream: Upstream) -> None:
        self._retries = retries
        self._upstream = upstream

    def __call__(self, retry_state: RetryCallState) -> bool:  # noqa: ARG002 - whatever became of the last try
        return not self._retries.spend(self._upstream)


def _wait(state: RetryCallState) -> float:
    """Return how long to wait: at least as long as the server asked for."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.retry_after_s if isinstance(error, HttpFailureError) else None
    return max(asked or 0.0, _WAIT(state))

"""Rows of the audit log for what passes through to an upstream, written before the client has its answer.

A call is recorded once, by how it ended: with a result, with an error or a result that says it is one, refused before
any upstream was asked, or with nobody left to answer.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any, Final

from mcp import MCPError

from agentapi.audit.models import Entry, Outcome
from agentapi.errors import AgentAPIError, AuditUnavailableError, ForbiddenError
from agentapi.gateway.policy import HiddenToolError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentapi.audit.log import AuditLog
    from agentapi.gateway.exchange import Exchange
    from agentapi.gateway.items import Target
    from agentapi.gateway.own_prompts import OwnPrompt

__all__ = ["CallRecorder", "Record"]

_ACTIONS: Final = {
    "tools/call": "tools.call",
    "resources/read": "resources.read",
    "prompts/get": "prompts.get",
}
_SAYS_ERROR: Final = re.compile(rb'"error"\s*:|"isError"\s*:\s*true')
"""What an answer that tells of an error has somewhere; one with neither need not be read."""


class CallRecorder:
    """Records calls.

    Args:
        audit: Where to; without one nothing is recorded.
    """

    def __init__(self, audit: AuditLog | None) -> None:
        self._audit = audit if audit is not None and audit.records_calls else None

    def begin(self, exchange: Exchange, target: Target | None, *, own: OwnPrompt | None = None) -> Record | None:
        """Return what is to be told how the request ends, or None for one that is not recorded.

        ``own`` is what the request is about where that is the gateway's own.

        Raises:
            AuditUnavailableError: It is, and the log cannot be written.
        """
        if self._audit is None or exchange.method not in _ACTIONS:
            return None
        self._audit.require_writable()
        return Record(self._audit, exchange, target, own)

    async def recorded(
        self,
        exchange: Exchange,
        target: Target | None,
        work: Callable[[], Awaitable[dict[str, Any]]],
        *,
        own: OwnPrompt | None = None,
    ) -> dict[str, Any]:
        """Return what ``work`` comes to once that is recorded.

        Raises:
            AuditUnavailableError: It cannot be.
        """
        record = self.begin(exchange, target, own=own)
        if record is None:
            return await work()
        try:
            result = await work()
            await record.ended(failed=result.get("isError") is True)
        except AuditUnavailableError:
            raise
        except Exception as error:
            await record.failed(error)
            raise
        finally:
            record.abandoned()
        return result

    async def refused(self, exchange: Exchange, error: Exception, *, own: OwnPrompt | None = None) -> None:
        """Record that a request went nowhere.

        Raises:
            AuditUnavailableError: It cannot be.
        """
        if self._audit is not None and exchange.method in _ACTIONS:
            await Record(self._audit, exchange, None, own).failed(error)


class Record:
    """One call under way; exactly one row comes of it."""

    def __init__(
        self, audit: AuditLog, exchange: Exchange, target: Target | None, own: OwnPrompt | None = None
    ) -> None:
        self._audit = audit
        self._exchange = exchange
        self._target = target
        self._own = own
        self._began = time.monotonic()
        self._open = True

    async def answered(self, body: bytes) -> None:
        """Record the answer that is about to be sent, by what it says.

        Raises:
            AuditUnavailableError: It cannot be.
        """
        if _SAYS_ERROR.search(body) is None:
            await self.ended()
            return
        message = json.loads(body)
        error, result = message.get("error"), message.get("result")
        if error is not None:
            await self.ended(failed=True, code=str(error.get("code")))
        else:
            await self.ended(failed=isinstance(result, dict) and result.get("isError") is True)

    async def failed(self, error: Exception) -> None:
        """Record that the call came to ``error``.

        Raises:
            AuditUnavailableError: It cannot be.
        """
        outcome = Outcome.DENIED if isinstance(error, ForbiddenError | HiddenToolError) else Outcome.FAILURE
        if isinstance(error, MCPError):
            code = str(error.code)
        else:
            code = error.code if isinstance(error, AgentAPIError) else AgentAPIError.code
        await self._write(outcome, code)

    async def ended(self, *, failed: bool = False, code: str | None = None) -> None:
        """Record that the call came to a result.

        Raises:
            AuditUnavailableError: It cannot be.
        """
        await self._write(Outcome.FAILURE if failed else Outcome.SUCCESS, code)

    def abandoned(self) -> None:
        """Record that nobody waits for an answer any more, unless it was there by then."""
        if self._open:
            self._open = False
            self._audit.note(self._exchange.principal, self._entry(Outcome.CANCELLED, None))

    async def _write(self, outcome: Outcome, code: str | None) -> None:
        self._open = False
        await self._audit.call(self._exchange.principal, self._entry(outcome, code))

    def _entry(self, outcome: Outcome, code: str | None) -> Entry:
        exchange, target = self._exchange, self._target
        details: dict[str, str | int | bool | None] = {
            "duration_ms": int((time.monotonic() - self._began) * 1000),
            "workspace": exchange.view.workspace.slug,
        }
        if target is not None:
            details["name"] = target.name
            details["upstream"] = target.upstream.name
        elif self._own is not None:
            details["name"] = self._own.upstream_name
        else:
            asked = exchange.params.get("uri" if exchange.method == "resources/read" else "name")
            details["name"] = asked if isinstance(asked, str) else None
        if exchange.toolset is not None:
            details["toolset"] = exchange.toolset
        if code is not None:
            details["code"] = code
        if exchange.principal.key_id is not None:
            details["by"] = f"key:{exchange.principal.key_id}"
        resource = "" if self._own is None else self._own.resource
        if target is not None:
            resource = f"upstream:{target.upstream.id}"
        return Entry(_ACTIONS[exchange.method], outcome, resource, details)

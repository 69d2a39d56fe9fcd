"""The prompts that the gateway keeps itself, served to MCP clients beside those of upstreams.

Each is called ``agentapi__{scope}__{name}``. No upstream may be called ``agentapi``, so the two never meet; where names
carry no prefix an upstream's prompt of such a name is hidden. The scope is in the name, since two scopes may each have
a prompt of one name and neither is to stand for the other.

A toolset selects them as it selects those of upstreams: by the public name, or by the prompt's own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol

from mcp import MCPError
from mcp_types import INVALID_PARAMS

from agentapi.errors import AgentAPIError, InvalidRequestError
from agentapi.gateway.listing import Kind
from agentapi.gateway.names import SEPARATOR, public_name
from agentapi.identity.permissions import Permission, permits, require
from agentapi.prompts.arguments import arguments_of, completions, values_of
from agentapi.prompts.compose import filled
from agentapi.upstreams.link import Era
from agentapi.upstreams.models import RESERVED_NAME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentapi.gateway.access import AccessPolicy
    from agentapi.gateway.exchange import Exchange, Visitor
    from agentapi.gateway.recording import CallRecorder
    from agentapi.principal import Principal
    from agentapi.prompts.models import Prompt

__all__ = ["NO_PROMPTS", "OwnPrompt", "OwnPrompts", "PromptSource"]

_PREFIX: Final = f"{RESERVED_NAME}{SEPARATOR}"
_MAX_COMPLETIONS: Final = 100
"""Of one answer (specification 2025-11-25, "Completion")."""
_MAX_TOLD: Final = 8
"""Arguments that one error names."""


class PromptSource(Protocol):
    """Where they are kept."""

    async def holding(self, principal: Principal, workspace: str) -> tuple[Prompt, ...]:
        """Return the prompts that hold for the principal in a workspace, by slug."""


class _NoPrompts:
    async def holding(self, principal: Principal, workspace: str) -> tuple[Prompt, ...]:  # noqa: ARG002 - of the protocol
        return ()


NO_PROMPTS: Final[PromptSource] = _NoPrompts()


@dataclass(frozen=True)
class OwnPrompt:
    """One of them, as a list shows it."""

    name: str
    prompt: Prompt

    @property
    def upstream_name(self) -> str:
        """The name that it was given where it is kept."""
        return self.prompt.name

    @property
    def resource(self) -> str:
        """What the audit log calls it."""
        return f"prompt:{self.prompt.id}"

    @cached_property
    def definition(self) -> dict[str, Any]:
        """The item of a list."""
        return {
            "name": self.name,
            "title": f"{self.prompt.name} ({self.prompt.scope})",
            "description": self.prompt.content.description,
            "arguments": arguments_of(self.prompt.content),
        }

    @cached_property
    def raw(self) -> bytes:
        """The same as JSON."""
        return json.dumps(self.definition, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


class OwnPrompts:
    """Lists, fills in and completes the gateway's prompts.

    Args:
        source: Where they are kept.
        policy: What a toolset selects.
        recorder: Writes what becomes of calls into the audit log.
    """

    def __init__(self, source: PromptSource, policy: AccessPolicy, recorder: CallRecorder) -> None:
        self._source = source
        self._policy = policy
        self._recorder = recorder

    async def listed(self, visitor: Visitor) -> list[OwnPrompt]:
        """Return those that ``visitor`` is shown, from the most to the least trusted scope and then by name."""
        holding = await self._source.holding(visitor.principal, visitor.view.workspace.slug)
        ordered = sorted(holding, key=lambda prompt: (prompt.scope.rank, prompt.name, prompt.id))
        own = [OwnPrompt(_name(prompt), prompt) for prompt in ordered]
        return list(await self._policy.selected(visitor.view, visitor.toolset, visitor.principal, Kind.PROMPTS, own))

    async def named(self, exchange: Exchange) -> OwnPrompt | None:
        """Return the one that a request is about, if it is about one that its caller is shown."""
        name = _asked_for(exchange)
        if not isinstance(name, str) or not name.startswith(_PREFIX):
            return None
        return next((own for own in await self.listed(exchange) if own.name == name), None)

    async def capabilities(self, visitor: Visitor) -> dict[str, Any]:
        """Return what a workspace can do by these alone."""
        if self._source is NO_PROMPTS or not permits(visitor.principal, Permission.PROMPTS_LIST):
            return {}
        own = await self.listed(visitor)
        completes = any(completions(variable, "") for each in own for variable in each.prompt.content.variables)
        # There are always prompts: they may come later, and a client that was told of none would never look.
        return {"prompts": {"listChanged": True}, **({"completions": {}} if completes else {})}

    async def answer(self, exchange: Exchange, own: OwnPrompt) -> dict[str, Any]:
        """Return the result of a request that is about ``own``.

        Raises:
            ForbiddenError: The role may not use prompts.
            MCPError: The arguments do not fit.
        """
        try:
            require(exchange.principal, Permission.PROMPTS_GET)
        except AgentAPIError as error:
            await self._recorder.refused(exchange, error, own=own)
            raise
        work = _messages if exchange.method == "prompts/get" else _completion

        async def result() -> dict[str, Any]:
            made = work(exchange, own)
            return {"resultType": "complete", **made} if exchange.client.era is Era.MODERN else made

        return await self._recorder.recorded(exchange, None, result, own=own)


def _name(prompt: Prompt) -> str:
    return public_name(RESERVED_NAME, f"{prompt.scope}{SEPARATOR}{prompt.name}")


def _asked_for(exchange: Exchange) -> object:
    if exchange.method == "prompts/get":
        return exchange.params.get("name")
    ref = exchange.params.get("ref")
    if exchange.method != "completion/complete" or not isinstance(ref, dict) or ref.get("type") != "ref/prompt":
        return None
    return ref.get("name")


def _messages(exchange: Exchange, own: OwnPrompt) -> dict[str, Any]:
    content = own.prompt.content
    values = values_of(content, exchange.params.get("arguments") or {})
    try:
        ((_, rendered),) = filled([own.prompt], values)
    except InvalidRequestError as error:
        raise _unfit(error) from None
    message = {"role": "user", "content": {"type": "text", "text": rendered.text}}
    return {"description": content.description, "messages": [message]}


def _completion(exchange: Exchange, own: OwnPrompt) -> dict[str, Any]:
    argument = exchange.params.get("argument") or {}
    name, typed = argument.get("name"), argument.get("value")
    variable = next((each for each in own.prompt.content.variables if each.name == name), None)
    if variable is None or not isinstance(typed, str):
        raise MCPError(INVALID_PARAMS, "The prompt has no such argument.", {"code": InvalidRequestError.code})
    found = completions(variable, typed)
    shown = found[:_MAX_COMPLETIONS]
    return {"completion": {"values": shown, "total": len(found), "hasMore": len(found) > len(shown)}}


def _unfit(error: InvalidRequestError) -> MCPError:
    """Return the error that says of each argument what is wrong with it, and repeats no value."""
    if not error.fields:
        return MCPError(INVALID_PARAMS, error.message, {"code": error.code})
    wrong: Sequence[tuple[str, str]] = [
        (field.pointer.rpartition("/")[2], field.detail) for field in error.fields[:_MAX_TOLD]
    ]
    told = " ".join(f"{name}: {detail}" for name, detail in wrong)
    fields = [f"/arguments/{name}" for name, _ in wrong]
    return MCPError(
        INVALID_PARAMS, f"The arguments do not fit the prompt. {told}", {"code": error.code, "fields": fields}
    )

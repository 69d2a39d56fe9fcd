"""Which scope a request needs, where the issuer's settings ask for scopes by operation (RFC 6749, section 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agentapi.gateway.exchange import Interest
from agentapi.gateway.listening import interest_of

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["OPERATION_SCOPES", "permitted", "scopes_of"]

_TOOLS: Final = "mcp:tools"
_RESOURCES: Final = "mcp:resources"
_PROMPTS: Final = "mcp:prompts"

OPERATION_SCOPES: Final = (_PROMPTS, _RESOURCES, _TOOLS)
"""All scopes that an operation may need."""

_BY_METHOD: Final = {
    "tools/list": _TOOLS,
    "tools/call": _TOOLS,
    "resources/list": _RESOURCES,
    "resources/templates/list": _RESOURCES,
    "resources/read": _RESOURCES,
    "resources/subscribe": _RESOURCES,
    "resources/unsubscribe": _RESOURCES,
    "prompts/list": _PROMPTS,
    "prompts/get": _PROMPTS,
}
_BY_REFERENCE: Final = {"ref/prompt": _PROMPTS, "ref/resource": _RESOURCES}


def scopes_of(method: str, params: Mapping[str, Any]) -> frozenset[str]:
    """Return the scopes that a request needs; what is about none of the three needs none."""
    if method == "completion/complete":
        reference = params.get("ref")
        kind = reference.get("type") if isinstance(reference, dict) else None
        return frozenset({_BY_REFERENCE[kind]}) if isinstance(kind, str) and kind in _BY_REFERENCE else frozenset()
    if method == "subscriptions/listen":
        interest = interest_of(params)
        needed = {
            _TOOLS: interest.tools,
            _PROMPTS: interest.prompts,
            _RESOURCES: interest.resources or bool(interest.uris),
        }
        return frozenset(scope for scope, asked in needed.items() if asked)
    scope = _BY_METHOD.get(method)
    return frozenset() if scope is None else frozenset({scope})


def permitted(interest: Interest, scopes: frozenset[str]) -> Interest:
    """Return what of ``interest`` a token with ``scopes`` may be told of."""
    resources = _RESOURCES in scopes
    return Interest(
        tools=interest.tools and _TOOLS in scopes,
        prompts=interest.prompts and _PROMPTS in scopes,
        resources=interest.resources and resources,
        uris=interest.uris if resources else frozenset(),
    )

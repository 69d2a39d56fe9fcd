"""The URIs in messages of one upstream, rewritten between its own form and the public one.

Only what the specification defines to be a URI of a resource is touched: text, structured content and arguments are
the upstream's own. Nothing is changed in place, since a message may be shared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentapi.gateway.names import public_uri, split_uri

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Rewriter", "map_notification", "map_question", "map_result"]

Map = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rewriter:
    """Rewrites what comes from ``upstream`` for a client; in a bare workspace that is nothing."""

    upstream: str
    bare: bool

    def uri(self, uri: str) -> str:
        """Return the public form."""
        return public_uri(self.upstream, uri, bare=self.bare)

    def own_uri(self, uri: str) -> str:
        """Return the upstream's form of a URI that may be public."""
        split = None if self.bare else split_uri(uri)
        return split[1] if split is not None and split[0] == self.upstream else uri

    def result(self, method: str, result: Map) -> Map:
        """Return the result of a request as the client is to see it."""
        return result if self.bare else map_result(method, result, self.uri)

    def notification(self, method: str, params: Map) -> Map:
        """Return the params of a notification as the client is to see them."""
        return params if self.bare else map_notification(method, params, self.uri)

    def question(self, method: str, params: Map) -> Map:
        """Return the params of a request to the client as it is to see them."""
        return params if self.bare else map_question(method, params, self.uri)


def map_result(method: str, result: Map, change: Callable[[str], str]) -> Map:
    """Return ``result`` with ``change`` applied to its URIs."""
    questions = result.get("inputRequests")
    if isinstance(questions, dict):
        result = {**result, "inputRequests": {key: _question(asked, change) for key, asked in questions.items()}}
    if method == "tools/call" and "content" in result:
        return {**result, "content": _content(result["content"], change)}
    if method == "prompts/get" and "messages" in result:
        return {**result, "messages": _messages(result["messages"], change)}
    if method == "resources/read" and isinstance(result.get("contents"), list):
        return {**result, "contents": [_with_uri(part, change) for part in result["contents"]]}
    return result


def map_notification(method: str, params: Map, change: Callable[[str], str]) -> Map:
    """Return the params of a notification with ``change`` applied to their URI, if they have one."""
    return _with_uri(params, change) if method == "notifications/resources/updated" else params


def map_question(method: str, params: Map, change: Callable[[str], str]) -> Map:
    """Return the params of a server's request with ``change`` applied to their URIs."""
    if method == "sampling/createMessage" and "messages" in params:
        return {**params, "messages": _messages(params["messages"], change)}
    return params


def _question(asked: Any, change: Callable[[str], str]) -> Any:  # noqa: ANN401 - whatever an upstream sends
    if not isinstance(asked, dict) or not isinstance(asked.get("params"), dict):
        return asked
    return {**asked, "params": map_question(str(asked.get("method")), asked["params"], change)}


def _messages(messages: Any, change: Callable[[str], str]) -> Any:  # noqa: ANN401
    if not isinstance(messages, list):
        return messages
    return [
        {**message, "content": _content(message["content"], change)}
        if isinstance(message, dict) and "content" in message
        else message
        for message in messages
    ]


def _content(content: Any, change: Callable[[str], str]) -> Any:  # noqa: ANN401
    """Map one block, or a list of them: the revisions differ in where they allow which."""
    return [_block(block, change) for block in content] if isinstance(content, list) else _block(content, change)


def _block(block: Any, change: Callable[[str], str]) -> Any:  # noqa: ANN401
    if not isinstance(block, dict):
        return block
    kind = block.get("type")
    if kind == "resource_link":
        return _with_uri(block, change)
    if kind == "resource" and "resource" in block:
        return {**block, "resource": _with_uri(block["resource"], change)}
    if kind == "tool_result" and isinstance(block.get("content"), list):
        return {**block, "content": _content(block["content"], change)}
    return block


def _with_uri(holder: Any, change: Callable[[str], str]) -> Any:  # noqa: ANN401
    if not isinstance(holder, dict) or not isinstance(holder.get("uri"), str):
        return holder
    return {**holder, "uri": change(holder["uri"])}

"""What a catalogue holds, as clients see it: items under their public names, and the upstream that alone answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from operator import is_
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PARAM_HEADER_PREFIX,
    MCP_PROTOCOL_VERSION_HEADER,
    encode_header_value,
)

from agentapi.egress.http1 import is_field_value
from agentapi.errors import InvalidRequestError
from agentapi.gateway.listing import Kind
from agentapi.gateway.names import public_name, public_uri
from agentapi.policy.models import ToolProfile
from agentapi.upstreams.envelope import header_map

if TYPE_CHECKING:
    from agentapi.upstreams.models import Upstream

__all__ = ["CatalogueItem", "ListedItem", "Target", "named"]


class ListedItem(Protocol):
    """What a list shows, whoever offers it."""

    @property
    def name(self) -> str:
        """The public name, URI or URI template."""

    @property
    def upstream_name(self) -> str:
        """What it is called where it comes from."""

    @property
    def definition(self) -> dict[str, Any]:
        """What a client is told of it."""

    @property
    def raw(self) -> bytes:
        """The same as JSON."""


@dataclass(frozen=True, slots=True)
class Target:
    """Which upstream a request goes to, and what the upstream calls the thing that it is about."""

    upstream: Upstream
    member: Literal["name", "uri"]
    """Where the name stands: in ``params``, or for a completion in ``params.ref``."""
    name: str
    public_name: str
    definition: dict[str, Any] | None = None
    """Of a tool or a prompt, under its public name."""
    repeatable: bool = False
    """Whether asking twice does no harm: a read, or a tool that says so."""
    _mirrored: frozenset[bytes] | None = field(default=None, init=False, repr=False, compare=False)
    _name_json: bytes = field(default=b"", init=False, repr=False, compare=False)
    _head: tuple[str, str, bytes] = field(default=("", "", b""), init=False, repr=False, compare=False)

    @property
    def mirrors(self) -> bool:
        """Whether headers repeat arguments of a call (``x-mcp-header``)."""
        return bool(self.mirrored)

    @property
    def mirrored(self) -> frozenset[bytes]:
        """The names of those headers, in lower case; found out once, by walking the tool's schema."""
        if self._mirrored is None:
            tokens = () if self.definition is None else header_map(self.definition).values()
            names = frozenset(f"{MCP_PARAM_HEADER_PREFIX}{token}".lower().encode() for token in tokens)
            object.__setattr__(self, "_mirrored", names)
        return self._mirrored or frozenset()

    @property
    def name_json(self) -> bytes:
        """The name as JSON; made once."""
        if not self._name_json:
            object.__setattr__(self, "_name_json", json.dumps(self.name).encode())
        return self._name_json

    def head(self, revision: str, method: str) -> bytes:
        """Return the header lines that repeat what the body of a request says; the last ones are remembered.

        Raises:
            InvalidRequestError: A value holds more than printable ASCII, and might end its line.
        """
        if self._head[0] != revision or self._head[1] != method:
            fields = {
                MCP_PROTOCOL_VERSION_HEADER: revision,
                MCP_METHOD_HEADER: method,
                MCP_NAME_HEADER: encode_header_value(self.name),
            }
            if not all(is_field_value(value.encode()) for value in fields.values()):
                raise InvalidRequestError("The revision or the method of the request is not printable ASCII.")
            lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            object.__setattr__(self, "_head", (revision, method, lines.encode()))
        return self._head[2]


@dataclass(frozen=True, slots=True)
class CatalogueItem:
    """One tool, prompt, resource or template: as the client sees it, and where it comes from."""

    name: str
    """The public name, URI or URI template."""
    upstream: Upstream
    upstream_name: str
    definition: dict[str, Any]
    _raw: bytes | None = field(default=None, init=False, repr=False, compare=False)
    _target: Target | None = field(default=None, init=False, repr=False, compare=False)
    _profile: ToolProfile | None = field(default=None, init=False, repr=False, compare=False)
    _called: CatalogueItem | None = field(default=None, init=False, repr=False, compare=False)
    _cleared: tuple[tuple[object, ...], CatalogueItem] | None = field(
        default=None, init=False, repr=False, compare=False
    )

    @property
    def raw(self) -> bytes:
        """The definition as JSON, made once, since lists are asked for far more often than they change."""
        if self._raw is None:
            text = json.dumps(self.definition, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            object.__setattr__(self, "_raw", text.encode())
        return self._raw or b""

    @property
    def target(self) -> Target:
        """Where a request goes that names this tool or prompt; likewise made once."""
        if self._target is None:
            hints = self.definition.get("annotations")
            harmless = "inputSchema" not in self.definition or (
                isinstance(hints, dict) and (hints.get("readOnlyHint") is True or hints.get("idempotentHint") is True)
            )
            target = Target(self.upstream, "name", self.upstream_name, self.name, self.definition, harmless)
            object.__setattr__(self, "_target", target)
        if self._target is None:
            raise AssertionError(self.name)
        return self._target

    @property
    def profile(self) -> ToolProfile:
        """What a policy looks at in a tool; likewise made once."""
        if self._profile is None:
            object.__setattr__(self, "_profile", ToolProfile.of(self.definition))
        if self._profile is None:
            raise AssertionError(self.name)
        return self._profile

    def called(self, name: str) -> CatalogueItem:
        """Return the item under another name; of the names it was asked for the last is remembered."""
        if name == self.name:
            return self
        if self._called is None or self._called.name != name:
            item = replace(self, name=name, definition={**self.definition, "name": name})
            object.__setattr__(item, "_profile", self._profile)
            object.__setattr__(self, "_called", item)
        if self._called is None:
            raise AssertionError(self.name)
        return self._called

    def cleared(self, terms: tuple[object, ...]) -> CatalogueItem | None:
        """Return what was ``clear``ed last if that was under these very terms."""
        if self._cleared is None or not all(map(is_, self._cleared[0], terms)):
            return None
        return self._cleared[1]

    def clear(self, terms: tuple[object, ...], item: CatalogueItem) -> None:
        """Remember that under these terms, objects that do not change, the item may be used as ``item``."""
        object.__setattr__(self, "_cleared", (terms, item))


def named(
    upstream: Upstream, kind: Kind, definitions: tuple[dict[str, Any], ...], *, bare: bool
) -> dict[str, CatalogueItem]:
    """Return the items by public name, in the upstream's order; of one name listed twice the first counts."""
    public = public_uri if kind in {Kind.RESOURCES, Kind.TEMPLATES} else public_name
    member = kind.member
    items: dict[str, CatalogueItem] = {}
    for definition in definitions:
        own = definition[member]
        name = public(upstream.name, own, bare=bare)
        if name not in items:
            items[name] = CatalogueItem(name, upstream, own, {**definition, member: name})
    return items

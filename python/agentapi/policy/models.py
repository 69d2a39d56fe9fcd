"""Policies, toolsets and approvals, and what of a tool they look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NewType, Self
from uuid import UUID

from agentapi.policy.fingerprints import fingerprint
from agentapi.policy.renames import Renames

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from agentapi.policy.patterns import Patterns
    from agentapi.policy.requests import PolicyInput
    from agentapi.principal import OrgId, Role, UpstreamId, UserId, WorkspaceId

__all__ = [
    "Actor",
    "Approval",
    "ApprovalId",
    "ApprovalState",
    "Effect",
    "Hints",
    "Rule",
    "ScopeRule",
    "Selector",
    "StoredPolicy",
    "Subject",
    "ToolPolicy",
    "ToolProfile",
    "Toolset",
    "ToolsetId",
]

ToolsetId = NewType("ToolsetId", UUID)
ApprovalId = NewType("ApprovalId", UUID)


class Effect(StrEnum):
    """What a rule does to the tools that it is about."""

    ALLOW = "allow"
    DENY = "deny"


class ApprovalState(StrEnum):
    """How a definition of a tool stands with the workspace."""

    APPROVED = "approved"
    CHANGED = "changed"
    """Another definition of the tool was known before this one was met."""
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Hints:
    """The annotations of a tool (specification 2026-07-28, ``ToolAnnotations``); they are claims of the upstream.

    What is missing, or is no boolean, counts as the specification's default. A tool that only reads destroys nothing
    and may be repeated, whatever else it says, since those two hints mean nothing then.
    """

    read_only: bool = False
    destructive: bool = True
    idempotent: bool = False
    open_world: bool = True

    @classmethod
    def of(cls, definition: Mapping[str, Any]) -> Self:
        """Return the hints of a tool's definition."""
        annotations = definition.get("annotations")
        given = annotations if isinstance(annotations, dict) else {}
        read_only = given.get("readOnlyHint") is True
        return cls(
            read_only=read_only,
            destructive=not read_only and given.get("destructiveHint") is not False,
            idempotent=read_only or given.get("idempotentHint") is True,
            open_world=given.get("openWorldHint") is not False,
        )


@dataclass(frozen=True, slots=True)
class ToolProfile:
    """What a policy needs of a tool's definition, worked out once for every list that is fetched."""

    hints: Hints
    fingerprint: bytes

    @classmethod
    def of(cls, definition: dict[str, Any]) -> Self:
        """Return the profile of a tool's definition."""
        return cls(Hints.of(definition), fingerprint(definition))


@dataclass(frozen=True, slots=True)
class Subject:
    """One tool, as a policy looks at it."""

    upstream: str
    names: tuple[str, ...]
    """All that it goes by: prefixed with its upstream and uncut, as the workspace lists it, and its new name."""
    hints: Hints
    approval: ApprovalState = ApprovalState.APPROVED


@dataclass(frozen=True, slots=True)
class Actor:
    """What of a principal a policy looks at."""

    role: Role
    scopes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Selector:
    """Which tools a rule is about: those that meet every condition. A condition that is absent holds for all."""

    tools: Patterns | None = None
    upstreams: Patterns | None = None
    roles: frozenset[Role] | None = None
    hints: tuple[tuple[str, bool], ...] = ()

    def selects(self, subject: Subject, role: Role) -> bool:
        """Return whether ``subject``, used by somebody of ``role``, meets every condition."""
        return (
            (self.roles is None or role in self.roles)
            and (self.upstreams is None or self.upstreams.match((subject.upstream,)))
            and all(getattr(subject.hints, name) is value for name, value in self.hints)
            and (self.tools is None or self.tools.match(subject.names))
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """Allows or denies what it selects."""

    label: str
    effect: Effect
    selector: Selector


@dataclass(frozen=True, slots=True)
class ScopeRule:
    """Asks for scopes of whoever calls what it selects."""

    label: str
    scopes: frozenset[str]
    selector: Selector


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """The policy of a workspace. The empty one allows every tool, since an admin registered the upstreams."""

    default: Effect = Effect.ALLOW
    rules: tuple[Rule, ...] = ()
    scope_rules: tuple[ScopeRule, ...] = ()
    renames: Renames = field(default_factory=lambda: Renames({}))
    require_approval: bool = False
    hold_changed_tools: bool = False
    search_mode: bool = False


@dataclass(frozen=True, slots=True)
class Toolset:
    """A named selection of a workspace's tools, prompts and resources, with a URL of its own."""

    id: ToolsetId
    org_id: OrgId
    workspace_id: WorkspaceId
    name: str
    description: str
    tools: Patterns
    prompts: Patterns
    resources: Patterns
    search_mode: bool
    version: int
    created_by: UserId
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Approval:
    """One definition of one tool that an upstream listed, and how it stands."""

    id: ApprovalId
    workspace_id: WorkspaceId
    upstream_id: UpstreamId
    upstream: str
    owner_id: UserId | None
    tool: str
    fingerprint: bytes
    definition: str | None
    """What was fingerprinted, as JSON; None where it is too long to keep."""
    state: ApprovalState
    first_seen_at: datetime
    decided_by: UserId | None
    decided_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """The policy as it was put; version 0 is that of a workspace without one."""

    document: PolicyInput
    version: int = 0
    updated_at: datetime | None = None
    updated_by: UserId | None = None

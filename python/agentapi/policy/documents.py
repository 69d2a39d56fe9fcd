"""What the routes of policies, toolsets and approvals answer."""

from __future__ import annotations

from typing import Annotated, Any

from typing_extensions import TypedDict

from agentapi.operation import DumpOf, Id, Slug, Time
from agentapi.policy.models import ApprovalState
from agentapi.policy.requests import PolicyInput

__all__ = ["ApprovalDocument", "ApprovalPage", "PolicyDocument", "ToolsetDocument", "ToolsetPage"]


class PolicyDocument(TypedDict):
    """What holds in a workspace; version 0 is that of a policy that was never put."""

    workspace: Slug
    version: int
    updated_at: Time | None
    updated_by: Id | None
    policy: Annotated[dict[str, Any], DumpOf(PolicyInput)]


class ToolsetDocument(TypedDict):
    """A selection of tools that has an address of its own."""

    id: Id
    workspace: Slug
    name: Slug
    description: str
    tools: list[str]
    prompts: list[str]
    resources: list[str]
    search_mode: bool
    version: int
    created_at: Time
    updated_at: Time


class ToolsetPage(TypedDict):
    """One page of toolsets."""

    items: list[ToolsetDocument]
    next_cursor: str | None


class ApprovalDocument(TypedDict):
    """One definition of a tool, and how it stands; ``definition`` is what the upstream said, as JSON."""

    id: Id
    upstream: Slug
    upstream_id: Id
    tool: str
    fingerprint: str
    definition: str | None
    state: ApprovalState
    private: bool
    first_seen_at: Time
    decided_at: Time | None
    decided_by: Id | None


class ApprovalPage(TypedDict):
    """One page of definitions."""

    items: list[ApprovalDocument]
    next_cursor: str | None

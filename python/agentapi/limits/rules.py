"""Which limits a request has to pass. Keys hold identifiers alone, and what a tenant named is behind its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Self

from agentapi.limits.local import per_minute

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentapi._core import Limit
    from agentapi.limits.standing import Asked
    from agentapi.principal import OrgId, Principal
    from agentapi.settings import Settings

__all__ = ["Rules", "ToolRule", "ToolUse"]

_planned = lru_cache(maxsize=1024)(per_minute)


@dataclass(frozen=True, slots=True)
class ToolRule:
    """What calls of the tools of a pattern cost, and how often each of them may be called in a workspace."""

    pattern: str
    cost: int = 1
    limit: Limit | None = None


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A call of the tool ``name``, which has a rule."""

    name: str
    rule: ToolRule


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The limits that are set; one that is not does not exist.

    A request that costs more than the burst of a limit costs the whole burst there: it can be made, and nothing
    beside it.
    """

    user: Limit | None = None
    """Of one user in one organisation."""
    organization: Limit | None = None
    """Of all users of an organisation together."""
    key: Limit | None = None
    """Of one API key."""
    workspace: Limit | None = None
    """Of all users of a workspace together."""
    address: Limit | None = None
    """Of one client address, whoever comes from it."""
    tools: tuple[ToolRule, ...] = ()
    """The first that matches counts."""
    plan: Callable[[OrgId], int | None] | None = None
    """Tells how many requests a minute an organisation's own plan allows, if that is limited."""

    @classmethod
    def from_settings(cls, settings: Settings, plan: Callable[[OrgId], int | None] | None = None) -> Self:
        """Build from the ``rate_limit_*`` settings."""

        def limit(count: int | None, burst: int | None) -> Limit | None:
            return per_minute(count, burst) if count else None

        return cls(
            user=limit(*settings.user_rate),
            organization=limit(settings.rate_limit_org_per_minute, settings.rate_limit_org_burst),
            key=limit(settings.rate_limit_key_per_minute, settings.rate_limit_key_burst),
            workspace=limit(settings.rate_limit_workspace_per_minute, settings.rate_limit_workspace_burst),
            address=limit(settings.rate_limit_address_per_minute, settings.rate_limit_address_burst),
            tools=tuple(
                ToolRule(each.tools, each.cost, limit(each.per_minute, each.burst))
                for each in settings.rate_limit_tools
            ),
            plan=plan,
        )

    def of_principal(
        self,
        principal: Principal,
        *,
        workspace: str | None = None,
        tool: ToolUse | None = None,
        address: str | None = None,
        alone: bool = False,
    ) -> list[Asked]:
        """Return what a request of ``principal`` has to pass.

        Args:
            principal: Who asks.
            workspace: The slug of the workspace that is asked, if it is one.
            tool: The tool that is called, if it has a rule.
            address: Where the request came from, if addresses are counted.
            alone: Leave out what is shared with all of the organisation.
        """
        cost = 1 if tool is None else tool.rule.cost
        asked: list[Asked] = []
        organization = f"{principal.org_id.int:x}"
        if self.user is not None:
            asked.append((f"user/{organization}/{principal.user_id.int:x}", self.user, cost))
        if self.organization is not None and not alone:
            asked.append((f"organization/{organization}", self.organization, cost))
        if self.plan is not None and not alone and (planned := self.plan(principal.org_id)) is not None:
            asked.append((f"plan/{organization}", _planned(planned), cost))
        if self.key is not None and principal.key_id is not None:
            asked.append((f"key/{organization}/{principal.key_id.int:x}", self.key, cost))
        if self.workspace is not None and workspace is not None:
            asked.append((f"workspace/{organization}/{workspace}", self.workspace, cost))
        if tool is not None and tool.rule.limit is not None:
            asked.append((f"tool/{organization}/{workspace}/{tool.name}", tool.rule.limit, cost))
        if self.address is not None and address is not None:
            asked.append((f"address/{address}", self.address, cost))
        if cost != 1:
            return [(key, limit, min(cost, limit.burst)) for key, limit, cost in asked]
        return asked

    def of_address(self, address: str) -> list[Asked]:
        """Return what a request of nobody in particular has to pass."""
        return [] if self.address is None else [(f"address/{address}", self.address, 1)]

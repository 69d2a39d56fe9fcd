"""What a client may send about policies and toolsets, checked field by field; also the form in which they are kept."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from agentapi.policy.models import Effect, Rule, ScopeRule, Selector, ToolPolicy
from agentapi.policy.patterns import MAX_LENGTH, Patterns
from agentapi.policy.renames import Renames
from agentapi.principal import Role

__all__ = ["RESERVED_NAMES", "PolicyInput", "RuleInput", "ScopeRuleInput", "ToolsetInput", "compiled"]

RESERVED_NAMES = frozenset({"find_tools", "call_tool"})
"""The two tools of search mode."""

_MAX_RULES = 100
_MAX_PATTERNS = 100
_MAX_RENAMES = 1000
_MAX_SELECTION = 500
_MAX_ALL_PATTERNS = 500
"""Patterns of all rules together: each is compared with each name of each tool."""
_SHOWN = 5
"""Patterns that a rule's description repeats."""

_Pattern = Annotated[str, Field(min_length=1, max_length=MAX_LENGTH, pattern=r"^[^\x00]*$")]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", min_length=1, max_length=60)]
_Scope = Annotated[str, Field(pattern=r"^[\x21\x23-\x5B\x5D-\x7E]+$", max_length=128)]
"""RFC 6749, section 3.3."""
_Text = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class AnnotationsInput(_Strict):
    """Conditions on a tool's annotations; a missing annotation has the specification's default."""

    read_only: bool | None = None
    destructive: bool | None = None
    idempotent: bool | None = None
    open_world: bool | None = None


class _SelectorInput(_Strict):
    """Conditions that all must hold; one that is left out holds for every tool."""

    tools: Annotated[tuple[_Pattern, ...], Field(min_length=1, max_length=_MAX_PATTERNS, strict=False)] | None = None
    upstreams: Annotated[tuple[_Pattern, ...], Field(min_length=1, max_length=_MAX_PATTERNS, strict=False)] | None = (
        None
    )
    roles: Annotated[tuple[Role, ...], Field(min_length=1, max_length=len(Role), strict=False)] | None = None
    annotations: AnnotationsInput | None = None

    def selector(self) -> Selector:
        """Return the conditions in the form that decisions use."""
        hints = {} if self.annotations is None else self.annotations.model_dump(exclude_none=True)
        return Selector(
            tools=None if self.tools is None else Patterns(self.tools),
            upstreams=None if self.upstreams is None else Patterns(self.upstreams),
            roles=None if self.roles is None else frozenset(self.roles),
            hints=tuple(sorted(hints.items())),
        )

    def conditions(self) -> str:
        """Return the conditions in words."""
        parts = [f"tools {_listed(self.tools)}"] if self.tools else []
        parts += [f"upstreams {_listed(self.upstreams)}"] if self.upstreams else []
        parts += [f"roles {_listed(self.roles)}"] if self.roles else []
        hints = {} if self.annotations is None else self.annotations.model_dump(exclude_none=True)
        parts += [f"{name} {str(value).lower()}" for name, value in sorted(hints.items())]
        return ", ".join(parts) or "every tool"


_R = TypeVar("_R", bound=_SelectorInput)


class RuleInput(_SelectorInput):
    """Allows or denies the tools that it selects."""

    effect: Effect
    description: _Text = ""


class ScopeRuleInput(_SelectorInput):
    """Asks for scopes of whoever calls a tool that it selects."""

    scopes: Annotated[tuple[_Scope, ...], Field(min_length=1, max_length=20, strict=False)]


class PolicyInput(_Strict):
    """Body of a policy: the whole of it, so that what is left out is as in an empty policy."""

    default: Effect = Effect.ALLOW
    rules: Annotated[tuple[RuleInput, ...], Field(max_length=_MAX_RULES, strict=False)] = ()
    requires_scope: Annotated[tuple[ScopeRuleInput, ...], Field(max_length=_MAX_RULES, strict=False)] = ()
    renames: Annotated[dict[_Pattern, _Name], Field(max_length=_MAX_RENAMES)] = {}
    require_approval: bool = False
    hold_changed_tools: bool = False
    search_mode: bool = False

    @field_validator("rules", "requires_scope")
    @classmethod
    def _patterns_are_few(cls, rules: tuple[_R, ...]) -> tuple[_R, ...]:
        if sum(len(rule.tools or ()) + len(rule.upstreams or ()) for rule in rules) > _MAX_ALL_PATTERNS:
            raise PydanticCustomError("too_many_patterns", f"The rules hold more than {_MAX_ALL_PATTERNS} patterns.")
        return rules

    @field_validator("renames")
    @classmethod
    def _names_are_free(cls, renames: dict[str, str]) -> dict[str, str]:
        taken: set[str] = set()
        for new in renames.values():
            if new in RESERVED_NAMES:
                raise PydanticCustomError("reserved_name", f"The name {new} belongs to search mode.")
            if new in taken:
                raise PydanticCustomError("name_twice", f"Two tools would be called {new}.")
            taken.add(new)
        return renames


class ToolsetInput(_Strict):
    """Body of a toolset."""

    workspace: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=63)] = "main"
    name: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=63)]
    description: _Text = ""
    tools: Annotated[tuple[_Pattern, ...], Field(max_length=_MAX_SELECTION, strict=False)]
    prompts: Annotated[tuple[_Pattern, ...], Field(max_length=_MAX_SELECTION, strict=False)] = ()
    resources: Annotated[tuple[_Pattern, ...], Field(max_length=_MAX_SELECTION, strict=False)] = ()
    search_mode: bool = False


def compiled(document: PolicyInput) -> ToolPolicy:
    """Return ``document`` in the form that decisions use."""
    rules = (
        Rule(_label(f"Rule {number}, {rule.effect}", rule, rule.description), rule.effect, rule.selector())
        for number, rule in enumerate(document.rules, 1)
    )
    scope_rules = (
        ScopeRule(_label(f"Needs the scopes {' '.join(rule.scopes)}", rule), frozenset(rule.scopes), rule.selector())
        for rule in document.requires_scope
    )
    return ToolPolicy(
        default=document.default,
        rules=tuple(rules),
        scope_rules=tuple(scope_rules),
        renames=Renames(document.renames),
        require_approval=document.require_approval,
        hold_changed_tools=document.hold_changed_tools,
        search_mode=document.search_mode,
    )


def _label(head: str, selector: _SelectorInput, description: str = "") -> str:
    tail = f" ({description})" if description else ""
    return f"{head}: {selector.conditions()}{tail}."


def _listed(texts: tuple[str, ...]) -> str:
    shown = ", ".join(texts[:_SHOWN])
    return f"{shown} and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else shown

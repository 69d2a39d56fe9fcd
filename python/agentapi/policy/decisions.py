"""May this principal see this tool, and call it? Decided from values alone, and told rule by rule.

Invariants:
    * Deny wins: a tool that one rule denies is denied, whatever allows it and wherever the rules stand.
    * Every check is told, the deciding ones too, and the last reason is the decision. Alone what other tools need of
      scopes is not.
    * What may be called is visible. What is hidden is neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from agentapi.identity.permissions import Permission, role_permits
from agentapi.policy.models import ApprovalState, Effect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentapi.policy.models import Actor, Subject, ToolPolicy, Toolset

__all__ = ["Outcome", "Reason", "Verdict", "decide"]


class Outcome(StrEnum):
    """What one check contributes."""

    PASSES = "passes"
    IGNORED = "ignored"
    """The check is about other tools, or nothing depends on it here."""
    HIDES = "hides"
    REFUSES_CALL = "refuses_call"


@dataclass(frozen=True, slots=True)
class Reason:
    """One check and what came of it, in words for a person."""

    check: str
    outcome: Outcome
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a tool is listed and may be called, and why."""

    visible: bool
    callable: bool
    reasons: tuple[Reason, ...]
    missing_scopes: frozenset[str] = frozenset()
    """Scopes that the token lacks and the policy asks for."""
    required_scopes: frozenset[str] = frozenset()
    """All that the policy asks for; a challenge names them all (RFC 6750, section 3.1)."""


def decide(policy: ToolPolicy, actor: Actor, subject: Subject, toolset: Toolset | None = None) -> Verdict:
    """Return what ``policy`` says of ``subject`` to ``actor``, within ``toolset`` where the client came by one."""
    reasons = [
        _approval(policy, subject),
        *_rules(policy, actor, subject),
        *_toolset(toolset, subject),
        *_role(actor),
    ]
    required: set[str] = set()
    for rule in policy.scope_rules:
        if not rule.selector.selects(subject, actor.role):
            # It reads as if the tool needed these scopes, and says nothing of this one.
            continue
        required |= rule.scopes
        outcome = Outcome.PASSES if rule.scopes <= actor.scopes else Outcome.REFUSES_CALL
        reasons.append(Reason("scopes", outcome, rule.label))
    return conclude(reasons, required=frozenset(required), missing=frozenset(required) - actor.scopes)


def conclude(
    reasons: list[Reason], *, required: frozenset[str] = frozenset(), missing: frozenset[str] = frozenset()
) -> Verdict:
    """Return the verdict to which ``reasons`` lead, itself the last of them."""
    outcomes = {reason.outcome for reason in reasons}
    visible = Outcome.HIDES not in outcomes
    may_call = visible and Outcome.REFUSES_CALL not in outcomes
    if may_call:
        decision = Reason("decision", Outcome.PASSES, "The tool is visible and callable.")
    elif visible:
        decision = Reason("decision", Outcome.REFUSES_CALL, "The tool is visible and not callable.")
    else:
        decision = Reason("decision", Outcome.HIDES, "The tool is neither visible nor callable.")
    return Verdict(visible, may_call, (*reasons, decision), missing, required)


_APPROVED = Reason("approval", Outcome.PASSES, "This definition of the tool is approved.")
_CHANGED = "The definition differs from the one that was known before, and nobody has approved it"
_HELD = Reason("approval", Outcome.HIDES, "This definition of the tool waits for approval.")
_NO_RULE = {
    Effect.ALLOW: Reason("default", Outcome.PASSES, "No rule denies the tool, and the default is to allow."),
    Effect.DENY: Reason("default", Outcome.HIDES, "No rule allows the tool, and the default is to deny."),
}
_DEFAULT_UNUSED = Reason("default", Outcome.IGNORED, "A rule decided, so the default does not count.")


def _approval(policy: ToolPolicy, subject: Subject) -> Reason:
    if subject.approval is ApprovalState.APPROVED:
        return _APPROVED
    if subject.approval is ApprovalState.HELD:
        return _HELD
    if policy.hold_changed_tools:
        return Reason("approval", Outcome.HIDES, f"{_CHANGED}; the workspace holds changed tools.")
    return Reason("approval", Outcome.PASSES, f"{_CHANGED}; the workspace does not hold changed tools.")


def _rules(policy: ToolPolicy, actor: Actor, subject: Subject) -> Iterator[Reason]:
    decided = False
    for rule in policy.rules:
        applies = rule.selector.selects(subject, actor.role)
        decided = decided or applies
        outcome = Outcome.IGNORED
        if applies:
            outcome = Outcome.HIDES if rule.effect is Effect.DENY else Outcome.PASSES
        yield Reason("rule", outcome, rule.label)
    yield _DEFAULT_UNUSED if decided else _NO_RULE[policy.default]


def _toolset(toolset: Toolset | None, subject: Subject) -> Iterator[Reason]:
    if toolset is None:
        return
    if toolset.tools.match(subject.names):
        yield Reason("toolset", Outcome.PASSES, f"The toolset '{toolset.name}' selects the tool.")
    else:
        yield Reason("toolset", Outcome.HIDES, f"The toolset '{toolset.name}' does not select the tool.")


def _role(actor: Actor) -> Iterator[Reason]:
    for permission, refusal in (
        (Permission.TOOLS_LIST, Outcome.HIDES),
        (Permission.TOOLS_CALL, Outcome.REFUSES_CALL),
    ):
        has = role_permits(actor.role, permission)
        words = "carries" if has else "lacks"
        detail = f"The role '{actor.role}' {words} the permission '{permission}'."
        yield Reason("role", Outcome.PASSES if has else refusal, detail)

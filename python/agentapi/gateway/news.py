"""Changes of what the gateway itself decides, told to the streams that are open here, whichever process made them.

They come with the notifications of the database, those of this process too. While these are not heard, what is changed
through this process is told without them, and what another one changed once they are heard again: a client that asks
anew though nothing changed has lost nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentapi.audit.models import DEPLOYMENT
from agentapi.gateway.subscriptions import Audience

if TYPE_CHECKING:
    from agentapi.gateway.router import Router
    from agentapi.policy.registry import PolicyRegistry
    from agentapi.principal import WorkspaceId
    from agentapi.prompts.models import Prompt
    from agentapi.prompts.registry import PromptRegistry
    from agentapi.storage.notifier import Change, ChangeFeed
    from agentapi.upstreams.models import Upstream
    from agentapi.upstreams.registry import UpstreamRegistry

__all__ = ["News"]

_OFFER: Final = ("upstreams", "tool_policies", "toolsets", "tool_approvals")
"""What decides what is offered of everything; a toolset selects prompts and resources as well."""
_PROMPTS: Final = ("prompts",)


class News:
    """Tells open streams; to be made after everything that remembers what changes, so that it is told first.

    Args:
        feed: Tells what changes.
        router: Has the streams.
    """

    def __init__(self, feed: ChangeFeed, router: Router) -> None:
        self._feed = feed
        self._router = router
        feed.listen(_OFFER, lambda change: router.offer_changed(_audience(change)), self._missed)
        feed.listen(_PROMPTS, lambda change: router.offer_changed(_audience(change), _PROMPTS), lambda: None)

    def follow(self, upstreams: UpstreamRegistry, policies: PolicyRegistry, prompts: PromptRegistry) -> None:
        """Take note of what is changed through these."""
        upstreams.on_change(self._upstream_changed)
        policies.on_change(self._policy_changed)
        prompts.on_change(self._prompt_changed)

    def _upstream_changed(self, upstream: Upstream) -> None:
        if not self._feed.hears:
            self._router.offer_changed(Audience(upstream.org_id, upstream.workspace_id, upstream.owner_id))

    def _policy_changed(self, workspace_id: WorkspaceId) -> None:
        if not self._feed.hears:
            self._router.offer_changed(Audience(workspace_id=workspace_id))

    def _prompt_changed(self, prompt: Prompt) -> None:
        if not self._feed.hears:
            self._router.offer_changed(Audience(prompt.org_id, prompt.workspace_id, prompt.owner_id), _PROMPTS)

    def _missed(self) -> None:
        self._router.offer_changed(Audience())


def _audience(change: Change) -> Audience:
    return Audience(None if change.org_id == DEPLOYMENT else change.org_id, change.workspace_id, change.user_id)

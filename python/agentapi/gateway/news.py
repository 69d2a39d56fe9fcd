"""What changes elsewhere and is remembered or listened to here: told to the catalogue and to the streams that are open.

Changes of what the gateway itself decides come with the notifications of the database, those of this process too. While
these are not heard, what is changed through this process is told without them. That an upstream's list has changed is
heard by whichever process has a connection to it, which tells the others.

After a time in which nothing was heard everything counts as changed: a client that asks anew for nothing has lost
nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agentapi.audit.models import DEPLOYMENT
from agentapi.gateway.subscriptions import Audience
from agentapi.principal import SessionId, UpstreamId
from agentapi.storage.notifier import Change

if TYPE_CHECKING:
    from agentapi.gateway.listening import OpenStreams
    from agentapi.gateway.router import Router
    from agentapi.policy.registry import PolicyRegistry
    from agentapi.principal import UserId, WorkspaceId
    from agentapi.prompts.models import Prompt
    from agentapi.prompts.registry import PromptRegistry
    from agentapi.storage.notifier import ChangeFeed
    from agentapi.upstreams.client import UpstreamClient
    from agentapi.upstreams.models import Upstream
    from agentapi.upstreams.registry import UpstreamRegistry

__all__ = ["News"]

_OFFER: Final = ("upstreams", "tool_policies", "toolsets", "tool_approvals")
"""What decides what is offered of everything; a toolset selects prompts and resources as well."""
_KINDS: Final = ("tools", "prompts", "resources")
_PROMPTS: Final = ("prompts",)
_LISTS: Final = {f"upstream_{kind}": kind for kind in _KINDS}
"""The topics of what upstreams say of their lists."""


class News:
    """Tells the catalogue and open streams; to be made after everything else that remembers what changes.

    Args:
        feed: Tells what changes, and whom it is told.
        router: Has the catalogue and the streams.
        client: Hears what upstreams say of their lists.
        streams: Those that are open.
    """

    def __init__(self, feed: ChangeFeed, router: Router, client: UpstreamClient, streams: OpenStreams) -> None:
        self._feed = feed
        self._streams = streams
        self._client = client
        self._catalogue = router.catalogue
        self._subscriptions = router.subscriptions
        feed.listen(_OFFER, lambda change: self._announce(_audience(change), _KINDS), self._missed)
        feed.listen(_PROMPTS, lambda change: self._announce(_audience(change), _PROMPTS), _nothing)
        feed.listen(tuple(_LISTS), self._list_changed, _nothing)
        feed.listen(("organizations", "members"), self._person_changed, _nothing)
        feed.listen(("api_keys",), self._key_changed, _nothing)
        feed.listen(("sessions",), self._session_ended, _nothing)
        client.on_change(self._heard)

    def follow(self, upstreams: UpstreamRegistry, policies: PolicyRegistry, prompts: PromptRegistry) -> None:
        """Take note of what is changed through these."""
        upstreams.on_change(self._upstream_changed)
        policies.on_change(self._policy_changed)
        prompts.on_change(self._prompt_changed)

    def _announce(self, audience: Audience, kinds: tuple[str, ...]) -> None:
        for kind in kinds:
            self._subscriptions.announce(audience, _method(kind))

    def _heard(self, upstream: Upstream, user_id: UserId, method: str, _: dict[str, Any]) -> None:
        """Tell the other processes of a list that has changed; the router tells this one."""
        for topic, kind in _LISTS.items():
            if method == _method(kind):
                self._feed.tell(Change(topic, upstream.org_id, user_id=user_id, id=upstream.id))

    def _list_changed(self, change: Change) -> None:
        if change.id is None or change.user_id is None:
            return
        kind, upstream_id = _LISTS[change.topic], UpstreamId(change.id)
        # A client that is told asks at once, so what is kept must go first.
        self._catalogue.changed(upstream_id, _method(kind))
        self._subscriptions.announce_to(upstream_id, change.user_id, (kind,))

    def _person_changed(self, change: Change) -> None:
        """End the streams of whoever may not be admitted any more; whoever may opens another one."""
        user_id = change.user_id
        self._streams.end_where(
            lambda principal: principal.org_id == change.org_id and user_id in (None, principal.user_id)
        )

    def _key_changed(self, change: Change) -> None:
        self._streams.end_where(lambda principal: principal.key_id is not None and principal.key_id == change.id)

    def _session_ended(self, change: Change) -> None:
        """End the streams of a session, and its processes: it ended through any process of the gateway."""
        self._streams.end_where(
            lambda principal: principal.session_id is not None and principal.session_id == change.id
        )
        if change.id is not None:
            self._client.drop_session(SessionId(change.id))

    def _missed(self) -> None:
        self._catalogue.doubt()
        self._announce(Audience(), _KINDS)

    def _upstream_changed(self, upstream: Upstream) -> None:
        if not self._feed.hears:
            self._announce(Audience(upstream.org_id, upstream.workspace_id, upstream.owner_id), _KINDS)

    def _policy_changed(self, workspace_id: WorkspaceId) -> None:
        if not self._feed.hears:
            self._announce(Audience(workspace_id=workspace_id), _KINDS)

    def _prompt_changed(self, prompt: Prompt) -> None:
        if not self._feed.hears:
            self._announce(Audience(prompt.org_id, prompt.workspace_id, prompt.owner_id), _PROMPTS)


def _audience(change: Change) -> Audience:
    return Audience(None if change.org_id == DEPLOYMENT else change.org_id, change.workspace_id, change.user_id)


def _method(kind: str) -> str:
    return f"notifications/{kind}/list_changed"


def _nothing() -> None:
    """Leave it to the first listener."""

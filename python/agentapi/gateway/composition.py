"""The parts of the gateway, put together: one router, and before it the fronts of both eras."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agentapi.gateway.access import AllItems
from agentapi.gateway.catalogue import Catalogue
from agentapi.gateway.connect_on_demand import ConnectOnDemand
from agentapi.gateway.conversations import Conversations
from agentapi.gateway.forwarding import Forwarder
from agentapi.gateway.legacy import LegacyFront
from agentapi.gateway.listening import OpenStreams
from agentapi.gateway.modern import ModernFront
from agentapi.gateway.own_prompts import NO_PROMPTS, OwnPrompts
from agentapi.gateway.pages import Pages
from agentapi.gateway.parked import ParkedCalls
from agentapi.gateway.recording import CallRecorder
from agentapi.gateway.relay import ByteRelay
from agentapi.gateway.relay_passage import RelayLimits
from agentapi.gateway.reply import StreamLimits
from agentapi.gateway.request_state import RequestStates
from agentapi.gateway.router import Router
from agentapi.gateway.session_ids import SessionIds
from agentapi.gateway.subscriptions import Subscriptions

if TYPE_CHECKING:
    from agentapi._core import Keyring
    from agentapi.audit.log import AuditLog
    from agentapi.egress.client import Egress
    from agentapi.gateway.access import AccessPolicy
    from agentapi.gateway.connect_on_demand import Connector
    from agentapi.gateway.own_prompts import PromptSource
    from agentapi.principal import OrgId, UpstreamId, UserId
    from agentapi.settings import Settings
    from agentapi.upstreams.breakers import UpstreamBreakers
    from agentapi.upstreams.client import UpstreamClient
    from agentapi.upstreams.credentials import Credentials
    from agentapi.upstreams.http_pool import HttpPool
    from agentapi.upstreams.retries import Retries

__all__ = ["Gateway", "build_router"]

_FAILURE_TTL_S: Final = 15.0
"""How long an upstream that failed is left out of lists before it is asked again."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """What the endpoint needs; ``router.run`` owns what goes on in the background."""

    router: Router
    modern: ModernFront
    legacy: LegacyFront
    streams: OpenStreams
    relay: ByteRelay
    client: UpstreamClient

    def connection_changed(self, org_id: OrgId, user_id: UserId, upstream_id: UpstreamId, gone: bool) -> None:
        """Let go of what a user's older credential for an upstream opened; at once, if there is no newer one."""
        self.router.connection_changed(org_id, user_id, upstream_id, gone)
        self.client.close_user(upstream_id, user_id, at_once=gone)
        self.relay.close_user(upstream_id, user_id)

    @classmethod
    def build(
        cls,
        settings: Settings,
        *,
        client: UpstreamClient,
        credentials: Credentials,
        keyring: Keyring,
        egress: Egress,
        http_pool: HttpPool,
        breakers: UpstreamBreakers,
        retries: Retries,
        policy: AccessPolicy | None = None,
        prompts: PromptSource = NO_PROMPTS,
        audit: AuditLog | None = None,
        connector: Connector | None = None,
    ) -> Gateway:
        """Return a gateway that speaks to its upstreams through ``client``, or past it over ``http_pool``.

        Without a policy all see everything, without an audit log no call is recorded, and without a connector nobody
        is sent to connect an account.
        """
        recorder = CallRecorder(audit)
        router = build_router(
            settings,
            client=client,
            keyring=keyring,
            policy=policy,
            prompts=prompts,
            recorder=recorder,
            connector=connector,
        )
        streams = OpenStreams(most=settings.max_streams, most_per_user=settings.max_streams_per_user)
        limits = StreamLimits(write_timeout_s=settings.client_write_timeout_s)
        legacy = LegacyFront(
            router=router,
            ids=SessionIds(keyring, ttl_s=settings.session_ttl_s),
            conversations=Conversations(clock=time.time),
            streams=streams,
            limits=limits,
            answer_timeout_s=settings.client_answer_timeout_s,
        )
        relay = ByteRelay(
            dialer=egress.dialer,
            pool=http_pool,
            credentials=credentials,
            states=RequestStates(keyring, settings.request_state_ttl_s),
            finish=router.finished,
            recorder=recorder,
            era=client.era,
            connect=router.connect,
            breakers=breakers,
            retries=retries,
            forget_era=client.forget_era,
            limits=RelayLimits(
                call_timeout_s=settings.upstream_call_timeout_s,
                max_answer_bytes=egress.max_response_bytes,
                stream_timeout_s=settings.upstream_stream_timeout_s,
                max_stream_bytes=settings.max_stream_bytes,
            ),
            stream_limits=limits,
        )
        modern = ModernFront(router=router, streams=streams, limits=limits, relay=relay)
        return cls(router, modern, legacy, streams, relay, client)


def build_router(
    settings: Settings,
    *,
    client: UpstreamClient,
    keyring: Keyring,
    policy: AccessPolicy | None = None,
    prompts: PromptSource = NO_PROMPTS,
    recorder: CallRecorder | None = None,
    connector: Connector | None = None,
) -> Router:
    """Return a router; without a policy everybody sees every tool."""
    states = RequestStates(keyring, settings.request_state_ttl_s)
    parked = ParkedCalls(
        states=states,
        ttl_s=settings.request_state_ttl_s,
        max_calls=settings.parked_calls_max,
        max_calls_per_user=settings.parked_calls_per_user,
    )
    catalogue = Catalogue(
        client=client,
        ttl_s=settings.catalogue_ttl_s,
        min_ttl_s=settings.catalogue_min_ttl_s,
        max_stale_s=settings.catalogue_max_stale_s,
        failure_ttl_s=min(_FAILURE_TTL_S, settings.catalogue_ttl_s),
        list_timeout_s=settings.upstream_connect_timeout_s,
        bare_names=settings.bare_tool_names,
        clock=time.monotonic,
    )
    policy, recorder = policy or AllItems(), recorder or CallRecorder(None)
    return Router(
        client=client,
        catalogue=catalogue,
        policy=policy,
        own=OwnPrompts(prompts, policy, recorder),
        pages=Pages(keyring, settings.list_page_size, time.time),
        forwarder=Forwarder(client=client, states=states, parked=parked, timeout_s=settings.upstream_call_timeout_s),
        parked=parked,
        connect=ConnectOnDemand(connector, states),
        subscriptions=Subscriptions(client, ready_s=settings.upstream_connect_timeout_s),
        recorder=recorder,
        profile_timeout_s=settings.upstream_connect_timeout_s,
    )

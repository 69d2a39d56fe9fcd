"""The composition root: builds every room from the settings and hands each what it needs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
from starlette.exceptions import HTTPException
from starlette.routing import Route

from agentapi.api_routes import OPERATIONS, follow_conventions
from agentapi.audit.log import AuditLog
from agentapi.audit.routes import AuditRoutes
from agentapi.audit.signing import SigningKeys
from agentapi.egress.client import Egress
from agentapi.errors import AgentAPIError, StartupError
from agentapi.gateway.authorizing import audit_reader, authorizer
from agentapi.gateway.browser_guard import BrowserGuard
from agentapi.gateway.composition import Gateway
from agentapi.gateway.endpoint import McpEndpoint
from agentapi.gateway.explain import Explainer
from agentapi.gateway.news import News
from agentapi.gateway.policy import Policy
from agentapi.gateway.rates import Rates, count_open_routes
from agentapi.gateway.refusals import Refusals
from agentapi.gateway.resource import ProtectedResource
from agentapi.gateway.scopes import OPERATION_SCOPES
from agentapi.http_server import CLIENT_LIMITS_STATE, ClientLimits, spare_long_lived_objects
from agentapi.idempotency.ledger import Ledger
from agentapi.identity.access import guard_routes
from agentapi.identity.authentication import authenticate
from agentapi.identity.room import IdentityRoom
from agentapi.jobs.queue import JobQueue
from agentapi.keyring_source import load_keyring, load_keyring_text
from agentapi.limits.room import LimitsRoom
from agentapi.oauth.brought.room import BroughtRoom
from agentapi.oauth.room import OAuthRoom
from agentapi.observability.health import HealthBoard, Probe
from agentapi.observability.logs import configure_from_settings
from agentapi.outermost import Application, http_problem, middleware_of, nobody, problem
from agentapi.policy.registry import PolicyRegistry
from agentapi.policy.routes import PolicyRoutes
from agentapi.prompts.registry import PromptRegistry
from agentapi.prompts.routes import PromptRoutes
from agentapi.reference.routes import ReferenceRoutes
from agentapi.request_body import ClientGoneError
from agentapi.sessions.room import SessionRoom
from agentapi.settings import load_issuers, load_settings
from agentapi.stopping import on_stop_signal
from agentapi.storage.database import Database
from agentapi.storage.notifier import Notifier
from agentapi.tenancy.admission import Admission
from agentapi.tenancy.book import Tenancy
from agentapi.tenancy.directory import MemberDirectory
from agentapi.tenancy.routes import TenancyRoutes
from agentapi.upstreams.breakers import UpstreamBreakers
from agentapi.upstreams.client import UpstreamClient
from agentapi.upstreams.connections import ConnectionPool
from agentapi.upstreams.credentials import CredentialsByAuth, SharedSecrets
from agentapi.upstreams.http_pool import HttpPool
from agentapi.upstreams.imports import ImportRoutes
from agentapi.upstreams.link import Bounds
from agentapi.upstreams.models import Auth
from agentapi.upstreams.registration import Registration
from agentapi.upstreams.registry import UpstreamRegistry
from agentapi.upstreams.retries import Retries
from agentapi.upstreams.routes import UpstreamRoutes
from agentapi.upstreams.sandbox import SandboxSupport, hide_this_process
from agentapi.upstreams.stdio import StdioCommands
from agentapi.upstreams.transports import TransportFactory
from agentapi.upstreams.wanted import Limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from starlette.applications import Starlette
    from starlette.routing import BaseRoute

    from agentapi._core import Keyring
    from agentapi.settings import BrowserSignIn, Settings

__all__ = ["Extension", "create_app", "from_environment"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Extension:
    """What ``agentapi dev`` adds to a production gateway: routes, and a context that lasts as long as it serves."""

    routes: Sequence[BaseRoute] = ()
    lifespan: Callable[[], AbstractAsyncContextManager[None]] = field(default=contextlib.nullcontext)


def from_environment() -> Starlette:
    """Build the application from ``AGENTAPI_*``; the factory that uvicorn's workers call."""
    configure_from_settings(settings := load_settings())
    spare_long_lived_objects()
    return create_app(settings)


def create_app(settings: Settings, extension: Extension | None = None) -> Starlette:
    """Return the gateway as an ASGI application; everything that needs an event loop is opened by its lifespan.

    Raises:
        StartupError: The settings cannot work; one sentence says which and how to mend it.
    """
    extension = extension or Extension()
    keyring = load_keyring(settings)
    issuers = load_issuers(settings)
    if not issuers:
        raise StartupError("No issuer is configured; set AGENTAPI_ISSUERS or AGENTAPI_ISSUERS_FILE.")
    if settings.database_url is None:
        raise StartupError("AGENTAPI_DATABASE_URL is not set; `agentapi dev` needs no database of yours.")
    database_url = settings.database_url.get_secret_value()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, ClientLimits]]:
        async with contextlib.AsyncExitStack() as stack:
            database = await Database.connect(
                database_url,
                pool_min=settings.database_pool_min,
                pool_max=settings.database_pool_max,
                timeout_s=settings.database_timeout_s,
            )
            stack.push_async_callback(database.close)
            await _require_current_schema(database)
            audit = AuditLog.from_settings(settings, database, SigningKeys.from_keyring(load_keyring_text(settings)))
            await stack.enter_async_context(audit.run())
            egress = await stack.enter_async_context(Egress.from_settings(settings))
            jobs = JobQueue(database_url, keyring=keyring, timeout_s=settings.database_timeout_s)
            feed = Notifier(database_url, timeout_s=settings.database_timeout_s)
            admission = Admission(database, clock=time.monotonic, feed=feed)
            opened = IdentityRoom.open(
                settings,
                issuers,
                database=database,
                keyring=keyring,
                audit=audit,
                egress=egress,
                jobs=jobs,
                feed=feed,
                on_plan=admission.note_plan,
            )
            identity = await stack.enter_async_context(opened)
            app.router.routes.extend(
                await _routes(
                    settings,
                    stack,
                    database=database,
                    egress=egress,
                    identity=identity,
                    admission=admission,
                    keyring=keyring,
                    jobs=jobs,
                    feed=feed,
                    audit=audit,
                    sign_ins={each.issuer: each.sign_in for each in issuers if each.sign_in is not None},
                    more=extension.routes,
                )
            )
            await identity.issuers.load()
            await stack.enter_async_context(feed.run())
            # Last, so that every room has said what it does, and first to end.
            await stack.enter_async_context(jobs.run())
            async with extension.lifespan():
                yield {CLIENT_LIMITS_STATE: ClientLimits.from_settings(settings)}

    app = Application(
        middleware=middleware_of(settings, lambda: app.router.routes),
        exception_handlers={
            AgentAPIError: problem,
            HTTPException: http_problem,
            ClientGoneError: nobody,
        },
        lifespan=lifespan,
    )
    # A redirect would be made of the request's Host header, and before anybody is authenticated.
    app.router.redirect_slashes = False
    return app


async def _require_current_schema(database: Database) -> None:
    missing = await database.pending_migrations()
    if missing:
        raise StartupError(f"The database lacks the migrations {', '.join(missing)}; run `agentapi migrate`.")


async def _routes(
    settings: Settings,
    stack: contextlib.AsyncExitStack,
    *,
    database: Database,
    egress: Egress,
    identity: IdentityRoom,
    admission: Admission,
    keyring: Keyring,
    jobs: JobQueue,
    feed: Notifier,
    audit: AuditLog,
    sign_ins: dict[str, BrowserSignIn],
    more: Sequence[BaseRoute],
) -> list[BaseRoute]:
    public_url = str(settings.public_url).rstrip("/")
    clock = time.monotonic
    directory, keys = identity.issuers, identity.keys
    registry = UpstreamRegistry(database, audit=audit, clock=clock, feed=feed)
    policies = PolicyRegistry(database, audit=audit, clock=clock, feed=feed)
    policy = Policy(policies)
    prompts = PromptRegistry(database, audit=audit, clock=clock, feed=feed)
    sessions = SessionRoom.build(
        settings,
        database=database,
        audit=audit,
        jobs=jobs,
        ring=identity.ring,
        prompts=prompts,
        admission=admission,
        asks_scopes=directory.asks_operation_scopes,
        feed=feed,
    )
    await stack.enter_async_context(sessions.run())
    commands, sandbox = await asyncio.to_thread(_commands, settings)
    transports = TransportFactory(
        egress=egress,
        commands=commands,
        max_message_bytes=settings.upstream_message_mb * 1024 * 1024,
        session_directory=sessions.book.directory,
    )
    oauth = OAuthRoom.build(
        settings, database=database, egress=egress, keyring=keyring, jobs=jobs, audit=audit, feed=feed
    )
    stack.push_async_callback(oauth.refresher.aclose)
    brought = BroughtRoom.build(
        settings,
        database=database,
        keyring=keyring,
        transports=transports,
        changes=oauth.changes,
        audit=audit,
        feed=feed,
    )
    oauth.ways[Auth.USER] = brought.way
    credentials = CredentialsByAuth(
        SharedSecrets(keyring), {Auth.OAUTH: oauth.credentials, Auth.USER: brought.credentials}
    )
    breakers, retries = UpstreamBreakers(), Retries()
    pool = ConnectionPool(Limits.from_settings(settings))
    await stack.enter_async_context(pool.run())
    client = UpstreamClient(
        pool,
        transports,
        credentials=credentials,
        clock=clock,
        breakers=breakers,
        retries=retries,
        stdio_sharing=settings.stdio_sharing,
        bounds=Bounds(settings.upstream_stream_timeout_s, settings.max_stream_bytes),
    )
    sessions.book.before_removal(client.close_session)
    registry.with_deletion(oauth.revoker.take_for)
    registry.on_end(client.close_upstream)
    ended = [identity.end_keys_of, sessions.book.end_all, pool.end_member]
    tenancy = Tenancy(
        database,
        audit=audit,
        admission=admission,
        before_deletion=[sessions.book.end_all, oauth.revoker.revoke_all],
        after_removal=[*ended, oauth.revoker.revoke_all, brought.book.delete_everything],
        with_workspace=[sessions.book.end_in_workspace],
        on_change=[registry.forget, client.close_organization, sessions.grants.forget],
    )
    http_pool = HttpPool.from_settings(settings, egress.dialer)
    await stack.enter_async_context(http_pool.run())
    gateway = Gateway.build(
        settings,
        client=client,
        credentials=credentials,
        keyring=keyring,
        egress=egress,
        http_pool=http_pool,
        breakers=breakers,
        retries=retries,
        policy=policy,
        prompts=prompts,
        audit=audit,
        connector=oauth.links,
    )
    await stack.enter_async_context(gateway.router.run())
    News(feed, gateway.router, client, gateway.streams).follow(registry, policies, prompts)
    oauth.changes.listen(gateway.connection_changed)
    stack.enter_context(on_stop_signal(gateway.streams.drain))
    scopes = {scope for issuer in directory.issuers for scope in directory.required_scopes(issuer)}
    if any(directory.asks_operation_scopes(issuer) for issuer in directory.issuers):
        scopes |= {*OPERATION_SCOPES}
    resource = ProtectedResource(public_url=public_url, issuers=directory.issuers, scopes=tuple(sorted(scopes)))
    guard = BrowserGuard(
        public_url,
        origins=settings.allowed_origins,
        hosts=settings.allowed_hosts,
        allow_loopback=settings.environment == "development",
    )
    refusals = Refusals(audit, admission, clock=clock)
    limits = await LimitsRoom.open(settings, stack, plan=admission.requests_per_minute)
    rates = Rates(limits, policy)
    endpoint = McpEndpoint(
        resource=resource,
        issuers=directory,
        keys=keys,
        admission=admission,
        registry=registry,
        guard=guard,
        modern=gateway.modern,
        legacy=gateway.legacy,
        max_body_bytes=settings.max_body_bytes,
        max_json_depth=settings.max_json_depth,
        body_timeout_s=settings.body_timeout_s,
        has_toolset=policy.has_toolset,
        rates=rates,
        refusals=refusals,
    )

    authorize = authorizer(directory, keys, admission, refusals, rates, audience=public_url)
    registration = Registration(keyring=keyring, check_url=egress.check, commands=commands.user_variables)
    upstreams = UpstreamRoutes(
        authorize=authorize,
        registry=registry,
        transports=transports,
        credentials=credentials,
        registration=registration,
        breakers=breakers,
        test_timeout_s=settings.upstream_connect_timeout_s * 2,
    )
    routes: list[BaseRoute] = [
        *more,
        *HealthBoard([Probe("database", database.ping, critical=True), *limits.probes, sandbox]).routes(),
        *(
            route
            for path in ("/mcp/{org}/{workspace}", "/mcp/{org}/{workspace}/{toolset}")
            for route in (
                Route(path, endpoint),
                Route(f"/.well-known/oauth-protected-resource{path}", resource.metadata, methods=["GET"]),
            )
        ),
        *upstreams.routes(),
        *ImportRoutes(authorize=authorize, registry=registry, registration=registration).routes(),
        *PolicyRoutes(authorize=authorize, policies=policies, upstreams=registry).routes(),
        *Explainer(
            authorize=authorize,
            upstreams=registry,
            catalogue=gateway.router.catalogue,
            policy=policy,
            members=MemberDirectory(database),
            issuers=directory,
        ).routes(),
        *identity.routes(authorize, admit=admission.admit, after_revocation=[sessions.book.end_of_key]),
        *PromptRoutes(authorize=authorize, prompts=prompts).routes(),
        *sessions.routes(authorize),
        *AuditRoutes(database, audit, audit_reader(authorize)).routes(),
        *oauth.routes(authorize=authorize, upstreams=registry),
        *brought.routes(authorize=authorize, upstreams=registry),
        *TenancyRoutes(
            authorize=authorize,
            verify=lambda request: authenticate(directory, request.scope["headers"], audience=public_url),
            tenancy=tenancy,
            public_url=public_url,
        ).routes(),
        *oauth.browser_routes(issuers=directory, admission=admission, tenancy=tenancy, clients=sign_ins),
        *ReferenceRoutes(OPERATIONS, public_url=public_url).routes(),
    ]
    follow_conventions(
        routes, ledger=Ledger(database, keyring=keyring), authorize=authorize, jobs=jobs, each=tenancy.platform.for_each
    )
    guard_routes(routes, authorize)
    count_open_routes(routes, rates)
    return routes


def _commands(settings: Settings) -> tuple[StdioCommands, Probe]:
    """Return the allowed commands, and how far the host protects itself from them, for ``/health``."""
    support = SandboxSupport.detect(cgroup=settings.stdio_cgroup)
    protections = support.in_force(settings.sandbox)
    _log.info("sandbox", **protections)
    if settings.sandbox != "off":
        hide_this_process()

    async def tell() -> dict[str, bool | str]:
        return protections

    commands = StdioCommands.from_settings(settings, root=settings.state_dir / "stdio", support=support)
    return commands, Probe("sandbox", tell, critical=False)

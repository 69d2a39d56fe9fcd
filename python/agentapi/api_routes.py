"""All operations of the HTTP API, and what stands in front of their routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.routing import Route

from agentapi.audit.operations import OPERATIONS as AUDIT
from agentapi.conventions import Conventions
from agentapi.gateway.operations import OPERATIONS as GATEWAY
from agentapi.idempotency.wrapper import Idempotent
from agentapi.identity.access import ROUTES, names_of
from agentapi.identity.api_keys.operations import OPERATIONS as API_KEYS
from agentapi.identity.operations import OPERATIONS as TOKENS
from agentapi.identity.permissions import Permission
from agentapi.oauth.operations import OPERATIONS as OAUTH
from agentapi.observability.operations import OPERATIONS as HEALTH
from agentapi.policy.operations import OPERATIONS as POLICY
from agentapi.prompts.operations import OPERATIONS as PROMPTS
from agentapi.reference.operations import OPERATIONS as REFERENCE
from agentapi.sessions.operations import OPERATIONS as SESSIONS
from agentapi.tenancy.operations import OPERATIONS as TENANCY
from agentapi.upstreams.operations import OPERATIONS as UPSTREAMS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from agentapi.idempotency.ledger import Ledger
    from agentapi.jobs.queue import JobQueue
    from agentapi.operation import Operation
    from agentapi.principal import OrgId, Principal

__all__ = ["OPERATIONS", "follow_conventions"]

OPERATIONS: Final[tuple[Operation, ...]] = (
    *GATEWAY,
    *UPSTREAMS,
    *POLICY,
    *OAUTH,
    *PROMPTS,
    *TENANCY,
    *API_KEYS,
    *SESSIONS,
    *TOKENS,
    *AUDIT,
    *HEALTH,
    *REFERENCE,
)
"""In the order in which the reference shows them."""


_HOURLY: Final = "41 * * * *"


def follow_conventions(
    routes: Iterable[BaseRoute],
    *,
    ledger: Ledger,
    authorize: Callable[[Request], Awaitable[Principal]],
    jobs: JobQueue,
    each: Callable[[Callable[[OrgId], Awaitable[None]]], Awaitable[None]],
) -> None:
    """Put in front of each route what its operation says that it takes; routes are changed in place.

    Args:
        routes: Of the application, not guarded yet: a request is let in first.
        ledger: Knows what was answered to requests with a key.
        authorize: Gives the principal of a request.
        jobs: Sweep what was answered.
        each: Does something for each organisation of the deployment.
    """
    jobs.every("idempotency.sweep", _HOURLY, lambda: each(ledger.sweep))
    by_name = {operation.route: operation for operation in OPERATIONS}
    routes = list(routes)
    fixed = {route.path for route in routes if isinstance(route, Route) and not route.param_convertors}
    for route in routes:
        for name in names_of(route):
            operation, access = by_name.get(name), ROUTES.get(name)
            if operation is None or not isinstance(route, Route):
                continue
            if operation.creates:
                route.app = Idempotent(route.app, ledger=ledger, authorize=authorize)
            is_private = isinstance(access, Permission)
            if is_private or operation.versioned != "no":
                elsewhere = frozenset(path for path in fixed - {route.path} if route.path_regex.match(path))
                route.app = Conventions(route.app, operation, is_private=is_private, elsewhere=elsewhere)

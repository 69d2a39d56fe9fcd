"""Who calls a route of ``/api``: token or key verified and admitted once, however often a request is asked about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentapi.audit.models import DEPLOYMENT, Actor
from agentapi.errors import AgentAPIError, InvalidRequestError
from agentapi.identity.authentication import authenticate, key_grant, presented_token, require_api_scope
from agentapi.identity.permissions import Permission, require

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from agentapi._core import VerifiedToken
    from agentapi.audit.models import Doer
    from agentapi.gateway.rates import Rates
    from agentapi.gateway.refusals import Refusals
    from agentapi.identity.api_keys.directory import KeyDirectory
    from agentapi.identity.api_keys.models import KeyGrant
    from agentapi.identity.issuers import IssuerDirectory
    from agentapi.principal import Principal
    from agentapi.tenancy.admission import Admission

__all__ = ["audit_reader", "authorizer"]

_PRINCIPAL: Final = "agentapi.principal"
"""Where a request's own scope has its principal, once it is known."""


def authorizer(
    directory: IssuerDirectory,
    keys: KeyDirectory,
    admission: Admission,
    refusals: Refusals,
    rates: Rates,
    *,
    audience: str,
) -> Callable[[Request], Awaitable[Principal]]:
    """Return what gives the principal of a request, by its access token for ``audience`` or its API key.

    It counts the request, too, the first time that it is asked.
    """

    async def authorize(request: Request) -> Principal:
        known: Principal | None = request.scope.get(_PRINCIPAL)
        if known is not None:
            return known
        rates.look(request.scope)
        token: VerifiedToken | KeyGrant | None = None
        try:
            token = grant = await key_grant(keys, presented_token(request.scope))
            if grant is not None:
                require_api_scope(grant, request.method)
                principal = grant.principal
            else:
                token = verified = await authenticate(directory, request.scope["headers"], audience=audience)
                principal = await admission.admit(verified)
        except AgentAPIError as error:
            await refusals.note(error, token)
            raise await rates.count_failed(request.scope) or error from None
        request.state.principal = principal
        await rates.count(principal, request.scope)
        request.scope[_PRINCIPAL] = principal
        return principal

    return authorize


def audit_reader(authorize: Callable[[Request], Awaitable[Principal]]) -> Callable[[Request], Awaitable[Doer]]:
    """Return what says who reads, and in whose audit log a request may."""

    async def reader(request: Request) -> Doer:
        principal = await authorize(request)
        of = request.query_params.get("of")
        if of not in {None, "deployment"}:
            raise InvalidRequestError("The parameter 'of' is 'deployment', or is left out.")
        of_deployment = of is not None
        require(principal, Permission.AUDIT_READ_DEPLOYMENT if of_deployment else Permission.AUDIT_READ)
        return Actor(DEPLOYMENT, principal.user_id) if of_deployment else principal

    return reader

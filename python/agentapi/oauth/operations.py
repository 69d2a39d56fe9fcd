"""What the routes of connections and credentials take and answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

from agentapi.api_input import PAGE
from agentapi.errors import NotFoundError, RateLimitedError, UpstreamNeedsConnectionError
from agentapi.oauth.brought.routes import ValuesInput
from agentapi.oauth.documents import (
    BegunDocument,
    ClientPage,
    ConnectionDocument,
    ConnectionPage,
    CredentialDocument,
    ProviderDocument,
    RevokedDocument,
)
from agentapi.oauth.errors import (
    AuthorizationServerError,
    BroughtRefusedError,
    ClientMissingError,
    GrantRefusedError,
    ReconnectNeededError,
)
from agentapi.oauth.requests import ClientInput, InitInput, ProviderInput, WhichUpstream
from agentapi.operation import Answer, Operation, Parameter

__all__ = ["OPERATIONS"]

_CONNECTIONS: Final = "Connections"
_SET_UP: Final = "Clients and providers"
_CREDENTIALS: Final = "Credentials"
_CREDENTIAL: Final = Answer(200, "How it stands.", CredentialDocument)
_PAGE_OF_FAILURE: Final = "A page that says what went wrong."
_HTML: Final = "text/html"
_REDIRECT: Final = Answer(
    303,
    "The account is connected, and the browser goes on.",
    headers=(("Location", "The page of the outcome, or the address that `return_to` named."),),
)

OPERATIONS: Final = (
    Operation(
        route="POST /api/v1/mcp/oauth/init",
        tag=_CONNECTIONS,
        summary="Begin to connect an account to an upstream",
        description="The answer sets a cookie that the browser has to bring back.",
        body=InitInput,
        answers=(Answer(200, "Where to send the browser.", BegunDocument),),
        errors=(NotFoundError, ClientMissingError, AuthorizationServerError, GrantRefusedError),
    ),
    Operation(
        route="GET /api/v1/mcp/oauth/callback",
        tag=_CONNECTIONS,
        summary="Where the provider sends the browser back to",
        description="For browsers: its answers are pages, errors too.",
        parameters=(
            Parameter("state", "What `init` gave."),
            Parameter("code", "The authorization code."),
            Parameter("error", "Why the provider refuses."),
            Parameter("iss", "Who the provider is (RFC 9207)."),
        ),
        answers=(
            _REDIRECT,
            *(Answer(status, _PAGE_OF_FAILURE, str, _HTML) for status in (403, 404, 409, 422, 502, 503)),
        ),
    ),
    Operation(
        route="POST /api/v1/mcp/oauth/refresh",
        tag=_CONNECTIONS,
        summary="Renew your connection to an upstream now",
        body=WhichUpstream,
        answers=(Answer(200, "The connection.", ConnectionDocument),),
        errors=(
            NotFoundError,
            ReconnectNeededError,
            UpstreamNeedsConnectionError,
            ClientMissingError,
            AuthorizationServerError,
            GrantRefusedError,
        ),
    ),
    Operation(
        route="POST /api/v1/mcp/oauth/revoke",
        tag=_CONNECTIONS,
        summary="End your connection to an upstream",
        body=WhichUpstream,
        answers=(Answer(200, "What the provider said to it.", RevokedDocument),),
        errors=(NotFoundError,),
    ),
    Operation(
        route="GET /api/v1/mcp/oauth/connections",
        tag=_CONNECTIONS,
        summary="List your connections",
        parameters=PAGE,
        answers=(Answer(200, "Connections in the order of their upstreams.", ConnectionPage),),
    ),
    Operation(
        route="GET /api/v1/mcp/oauth/clients",
        tag=_SET_UP,
        summary="List the organisation's clients at authorization servers",
        parameters=PAGE,
        answers=(Answer(200, "Clients in the order of their issuers.", ClientPage),),
    ),
    Operation(
        route="PUT /api/v1/mcp/oauth/clients",
        tag=_SET_UP,
        summary="Store the organisation's client of an issuer",
        body=ClientInput,
        answers=(Answer(204, "It is stored."),),
    ),
    Operation(
        route="DELETE /api/v1/mcp/oauth/clients",
        tag=_SET_UP,
        summary="Remove the organisation's client of an issuer",
        parameters=(Parameter("issuer", "Of the client.", Annotated[str, Field(max_length=2048)], required=True),),
        answers=(Answer(204, "It is removed."),),
        errors=(NotFoundError,),
    ),
    Operation(
        route="GET /api/v1/mcp/oauth/providers/{id}",
        tag=_SET_UP,
        summary="Read which provider was chosen for an upstream",
        answers=(Answer(200, "The provider.", ProviderDocument),),
        versioned="answer",
    ),
    Operation(
        route="PUT /api/v1/mcp/oauth/providers/{id}",
        tag=_SET_UP,
        summary="Choose the provider of an upstream",
        body=ProviderInput,
        answers=(Answer(204, "It is stored."),),
        versioned="change",
    ),
    Operation(
        route="DELETE /api/v1/mcp/oauth/providers/{id}",
        tag=_SET_UP,
        summary="Leave an upstream to the metadata that it publishes",
        answers=(Answer(204, "It is removed."),),
        versioned="change",
    ),
    Operation(
        route="GET /api/v1/mcp/credentials/{upstream}",
        tag=_CREDENTIALS,
        summary="Read what an upstream asks you for, and which of it is there",
        answers=(_CREDENTIAL,),
    ),
    Operation(
        route="PUT /api/v1/mcp/credentials/{upstream}",
        tag=_CREDENTIALS,
        summary="Give an upstream a credential of yours",
        description="It is tried at the upstream first, and stored only if the upstream takes it.",
        body=ValuesInput,
        answers=(_CREDENTIAL,),
        errors=(RateLimitedError, BroughtRefusedError),
    ),
    Operation(
        route="DELETE /api/v1/mcp/credentials/{upstream}",
        tag=_CREDENTIALS,
        summary="Take your credential back",
        answers=(Answer(204, "It is gone."),),
    ),
    Operation(
        route="GET /.well-known/oauth-client.json",
        tag="Discovery",
        summary="Read what the gateway is as an OAuth client",
        description="For authorization servers that read a client id as the URL of its metadata.",
        answers=(Answer(200, "Client metadata (RFC 7591).", dict[str, Any]),),
    ),
)

"""The requests of OAuth 2: authlib's asynchronous client over the guarded transport.

authlib builds the authorization URL, the token and revocation requests and the PKCE challenge, and reads the
answers; it runs over httpx2 since 1.9 and takes a transport. What it leaves open is closed here:

* It would believe a token in an answer of any status below 500, and keep ``expires_at`` as the server wrote it; each
  answer is held to ``_Answer`` before authlib reads it.
* It puts client id and secret into the Basic header as they are; RFC 6749, section 2.3.1, wants them form-encoded.
* It bounds neither size nor time.

Invariants: no redirect is followed; an answer is at most 64 KiB and takes no longer than the egress timeout; nothing
that a server said reaches a message, and no token, code or verifier the log.
"""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar
from urllib.parse import parse_qsl, quote_plus

import anyio
import httpx2
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from agentapi.oauth.errors import AuthorizationServerError, GrantRefusedError
from agentapi.oauth.models import Client, ClientAuth, Registration, Tokens

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from agentapi.egress.client import Egress
    from agentapi.oauth.models import AuthorizationServer

__all__ = ["AuthorizationClient", "split_scopes"]

_T = TypeVar("_T")

_MAX_ANSWER_BYTES: Final = 64 * 1024
_MAX_TOKEN: Final = 32 * 1024
_ERROR_CODE: Final = re.compile(r"[a-z0-9_.-]{1,64}")
_NO_ANSWER: Final = "The authorization server's answer could not be understood."
_TEN_YEARS_S: Final = 10 * 366 * 86_400
_REGISTERED: Final = (httpx2.codes.OK, httpx2.codes.CREATED)

# Printable and without spaces, since they go into a header (RFC 6749, appendix A.12; RFC 6750, section 2.1).
_Token = Annotated[str, Field(pattern=r"^[\x21-\x7e]+$", max_length=_MAX_TOKEN)]


class _Answer(BaseModel):
    """A token answer; members nobody here needs are dropped."""

    model_config = ConfigDict(hide_input_in_errors=True)

    access_token: _Token
    token_type: str
    expires_in: Annotated[int, Field(ge=0, le=_TEN_YEARS_S)] | None = None
    refresh_token: _Token | None = None
    scope: Annotated[str, Field(max_length=8192)] | None = None
    id_token: _Token | None = None

    @field_validator("token_type")
    @classmethod
    def _is_bearer(cls, value: str) -> str:
        if value.lower() != "bearer":
            raise ValueError("the token is not a bearer token")
        return value

    @field_validator("refresh_token", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None


class _Registered(BaseModel):
    """The answer to a registration (RFC 7591, section 3.2.1)."""

    model_config = ConfigDict(hide_input_in_errors=True)

    client_id: Annotated[str, Field(pattern=r"^[\x20-\x7e]+$", max_length=2048)]
    client_secret: Annotated[str, Field(pattern=r"^[\x20-\x7e]+$", max_length=4096)] | None = None
    client_secret_expires_at: Annotated[int, Field(ge=0, le=2**40)] | None = None
    token_endpoint_auth_method: ClientAuth | None = None


class AuthorizationClient:
    """Speaks to authorization servers, each time as the client it is given.

    Args:
        egress: The guarded way out.
        timeout_s: Bound on the whole of one request.
    """

    def __init__(self, egress: Egress, *, timeout_s: float) -> None:
        self._egress = egress
        self._transport = _SmallAnswers(egress.transport)
        self._timeout_s = timeout_s

    def authorization_url(
        self,
        server: AuthorizationServer,
        client: Client,
        *,
        redirect_uri: str,
        state: str,
        verifier: SecretStr,
        scopes: tuple[str, ...],
        resource: str | None,
    ) -> str:
        """Return where the browser is to go (RFC 6749, section 4.1.1; RFC 7636, section 4.3; RFC 8707, section 2)."""
        url, _ = self._client(client, redirect_uri).create_authorization_url(
            server.authorization_endpoint,
            state=state,
            code_verifier=verifier.get_secret_value(),
            scope=" ".join(scopes) or None,
            resource=resource,
            **dict(server.authorize_parameters),
        )
        return str(url)

    async def exchange(
        self,
        server: AuthorizationServer,
        client: Client,
        *,
        code: str,
        verifier: SecretStr,
        redirect_uri: str,
        resource: str | None,
    ) -> Tokens:
        """Redeem an authorization code.

        Raises:
            GrantRefusedError: The server answered with an error.
            AuthorizationServerError: It cannot be reached, or its answer is no token answer.
        """
        session = self._client(client, redirect_uri)
        given = {"resource": resource} if resource is not None else {}
        request = session.fetch_token(
            server.token_endpoint,
            grant_type="authorization_code",
            code=code,
            code_verifier=verifier.get_secret_value(),
            **given,
        )
        return _tokens(await self._bounded(request))

    async def refresh(
        self, server: AuthorizationServer, client: Client, *, refresh_token: SecretStr, resource: str | None
    ) -> Tokens:
        """Use a refresh token; the scopes stay those of the grant (RFC 6749, section 6).

        Raises:
            GrantRefusedError: The server answered with an error.
            AuthorizationServerError: It cannot be reached, or its answer is no token answer.
        """
        session = self._client(client, None)
        secret = refresh_token.get_secret_value()
        session.token = {"refresh_token": secret, "token_type": "bearer"}
        given = {"resource": resource} if resource is not None else {}
        answer = await self._bounded(session.refresh_token(server.token_endpoint, refresh_token=secret, **given))
        return _tokens(answer)

    async def revoke(self, endpoint: str, client: Client, *, token: SecretStr, hint: str) -> None:
        """Revoke a token (RFC 7009, section 2.1); one that the server does not know is as good as revoked.

        Raises:
            AuthorizationServerError: The server did not confirm it.
        """
        session = self._client(client, None)
        request = session.revoke_token(endpoint, token=token.get_secret_value(), token_type_hint=hint)
        _require_success(await self._bounded(request))

    async def revoke_at_github(self, endpoint: str, client: Client, *, token: SecretStr) -> None:
        """Delete the user's whole grant to the app (GitHub REST, "Delete an app authorization").

        Raises:
            AuthorizationServerError: GitHub did not confirm it.
        """
        secret = "" if client.secret is None else client.secret.get_secret_value()
        async with self._plain(auth=httpx2.BasicAuth(client.client_id, secret)) as session:
            request = session.request(
                "DELETE",
                endpoint.replace("{client_id}", quote_plus(client.client_id)),
                json={"access_token": token.get_secret_value()},
                headers={"Accept": "application/vnd.github+json"},
            )
            answer = await self._bounded(request)
        _require_success(answer)

    async def register(self, server: AuthorizationServer, metadata: dict[str, Any], redirect_uri: str) -> Client:
        """Register dynamically (RFC 7591, section 3).

        Raises:
            AuthorizationServerError: The server did not register the client.
        """
        if server.registration_endpoint is None:
            raise AssertionError(server.issuer)
        async with self._plain() as session:
            answer = await self._bounded(session.post(server.registration_endpoint, json=metadata))
        if answer.status_code not in _REGISTERED:
            raise AuthorizationServerError(
                "The authorization server did not register this gateway.", status=answer.status_code
            )
        try:
            given = _Registered.model_validate_json(answer.content)
        except ValidationError as error:
            raise AuthorizationServerError(_NO_ANSWER, reason=_complaint(error)) from None
        method = given.token_endpoint_auth_method or ClientAuth(metadata["token_endpoint_auth_method"])
        if given.client_secret is None:
            method = ClientAuth.NONE
        # Some servers give a secret to whoever registers; a client that does not authenticate has no use for one.
        secret = given.client_secret if method is not ClientAuth.NONE else None
        return Client(
            issuer=server.issuer,
            client_id=given.client_id,
            secret=None if secret is None else SecretStr(secret),
            auth_method=method,
            registration=Registration.DYNAMIC,
            redirect_uri=redirect_uri,
            # Zero says that it does not expire.
            secret_expires_at=(
                datetime.fromtimestamp(given.client_secret_expires_at, UTC) if given.client_secret_expires_at else None
            ),
        )

    def _client(self, client: Client, redirect_uri: str | None) -> AsyncOAuth2Client:
        session = AsyncOAuth2Client(
            client_id=client.client_id,
            client_secret=None if client.secret is None else client.secret.get_secret_value(),
            token_endpoint_auth_method=client.auth_method.value,
            revocation_endpoint_auth_method=client.auth_method.value,
            code_challenge_method="S256",
            redirect_uri=redirect_uri,
            transport=self._transport,
            trust_env=False,
            follow_redirects=False,
            timeout=self._timeout_s,
        )
        session.register_client_auth_method((ClientAuth.BASIC.value, _basic))
        session.register_compliance_hook("access_token_response", _checked)
        session.register_compliance_hook("refresh_token_response", _checked)
        return session

    def _plain(self, auth: httpx2.Auth | None = None) -> httpx2.AsyncClient:
        return self._egress.client(
            headers={"Accept": "application/json"},
            timeout=httpx2.Timeout(self._timeout_s),
            auth=auth,
            transport=self._transport,
        )

    async def _bounded(self, request: Awaitable[_T]) -> _T:
        """Await one request and put what can go wrong with it into one error."""
        try:
            with anyio.fail_after(self._timeout_s):
                return await request
        except OAuthError as error:
            code = error.error if isinstance(error.error, str) and _ERROR_CODE.fullmatch(error.error) else "unknown"
            raise GrantRefusedError(code) from None
        except (TimeoutError, httpx2.TimeoutException):
            raise AuthorizationServerError("The authorization server did not answer in time.") from None
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL) as error:
            raise AuthorizationServerError(
                "The authorization server could not be reached or its answer could not be read.",
                reason=type(error).__name__,
            ) from None


def split_scopes(text: str) -> tuple[str, ...]:
    """Return the scopes of an answer in order, once each; GitHub separates them by commas."""
    return tuple(dict.fromkeys(part for part in re.split(r"[ ,]+", text) if part))


def _tokens(answer: Mapping[str, Any]) -> Tokens:
    refresh_token, id_token = answer.get("refresh_token"), answer.get("id_token")
    scope = answer.get("scope")
    return Tokens(
        access_token=SecretStr(answer["access_token"]),
        refresh_token=None if refresh_token is None else SecretStr(refresh_token),
        scopes=None if scope is None else split_scopes(scope),
        expires_in_s=answer.get("expires_in"),
        id_token=None if id_token is None else SecretStr(id_token),
    )


def _basic(
    client: AsyncOAuth2Client, _method: str, uri: str, headers: httpx2.Headers, body: bytes
) -> tuple[str, httpx2.Headers, bytes]:
    """Authenticate as RFC 6749, section 2.3.1, says."""
    pair = f"{quote_plus(client.client_id)}:{quote_plus(client.client_secret or '')}"
    headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return uri, headers, body


def _checked(response: httpx2.Response) -> httpx2.Response:
    """Return an answer of a token endpoint in which authlib finds an error or good tokens, and nothing else."""
    if response.status_code >= httpx2.codes.INTERNAL_SERVER_ERROR:
        raise AuthorizationServerError("The authorization server failed.", status=response.status_code)
    document = _document(response)
    error = document.get("error")
    if error is not None:
        return httpx2.Response(httpx2.codes.BAD_REQUEST, json={"error": error})
    if response.status_code != httpx2.codes.OK:
        raise AuthorizationServerError(_NO_ANSWER, status=response.status_code)
    try:
        answer = _Answer.model_validate(document)
    except ValidationError as complaint:
        raise AuthorizationServerError(_NO_ANSWER, reason=_complaint(complaint)) from None
    return httpx2.Response(httpx2.codes.OK, json=answer.model_dump(exclude_none=True))


def _document(response: httpx2.Response) -> dict[str, Any]:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/x-www-form-urlencoded":
            return dict(parse_qsl(response.content.decode("ascii"), strict_parsing=True, max_num_fields=64))
        document = json.loads(response.content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise AuthorizationServerError(_NO_ANSWER, status=response.status_code, content_type=kind[:64])
    return document


def _require_success(answer: httpx2.Response) -> None:
    if not answer.is_success:
        raise AuthorizationServerError("The provider did not confirm the revocation.", status=answer.status_code)


def _complaint(error: ValidationError) -> str:
    return "; ".join(
        f"{'/'.join(str(part) for part in detail['loc'])}: {detail['type']}"
        for detail in error.errors(include_url=False, include_context=False, include_input=False)
    )


class _SmallAnswers(httpx2.AsyncBaseTransport):
    """Reads each answer whole, and no more of it than an authorization server has reason to say."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        body = bytearray()
        try:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > _MAX_ANSWER_BYTES:
                    raise httpx2.RemoteProtocolError("the answer is too large", request=request)
        finally:
            await response.aclose()
        return httpx2.Response(response.status_code, headers=response.headers, content=bytes(body), request=request)

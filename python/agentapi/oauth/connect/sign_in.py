"""How a person at a browser shows who they are: at the issuer of their tokens, or with a token of theirs.

Invariants:

* Whoever signs in is a subject of the issuer that the page asked for: of the one whose token made the call, where there
  was one, for only then do two ids of users mean the same.
* The code goes to the issuer that was asked, with PKCE; its answer counts in the browser that began, once the state
  and the nonce of the id token are those of the cookie. The id token's signature, audience and time are checked by
  what checks every token here.
* Where the issuer's settings have no client for browsers, the person gives a token of theirs instead, in a form, if
  the deployment's settings allow that; otherwise nobody signs in.
* The token of a session signs nobody in: it is an agent's, and narrower than the person whom a page takes it for.
* An address that the issuer says it has not verified is nobody's.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import secrets
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from agentapi._core import SealError
from agentapi.errors import ForbiddenError, InsufficientScopeError, UnauthenticatedError
from agentapi.identity.authentication import bearer_token, verified_token
from agentapi.oauth.connect.browser import SignedIn
from agentapi.oauth.connect.tickets import CONNECT_PATH
from agentapi.oauth.errors import AuthorizationServerError, FlowRefusedError
from agentapi.oauth.flow import TTL_S
from agentapi.oauth.models import Client, ClientAuth, Registration
from agentapi.tenancy.models import Claimant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from agentapi._core import Keyring, VerifiedToken
    from agentapi.identity.issuers import IssuerDirectory
    from agentapi.oauth.connect.tickets import Ticket
    from agentapi.oauth.discovery import Discovery
    from agentapi.oauth.flow import Answer
    from agentapi.oauth.models import AuthorizationServer
    from agentapi.oauth.protocol import AuthorizationClient
    from agentapi.settings import BrowserSignIn
    from agentapi.tenancy.admission import Admission

__all__ = ["SIGNED_IN_PATH", "By", "Means", "SignIns", "Started"]

SIGNED_IN_PATH: Final = f"{CONNECT_PATH}/signed-in"
_AAD: Final = b"connect.sign_in"
_MAX_COOKIE: Final = 4096
_MAX_CODE: Final = 4096
_SECRET_BYTES: Final = 32
_SCHEME: Final = re.compile(r"\A\s*bearer\s+", re.IGNORECASE)
"""What people copy along with a token."""
_FAILED: Final = "You could not be signed in. Open the link again."


class By(Enum):
    """What a person shows who they are by."""

    ISSUER = auto()
    TOKEN = auto()
    NOTHING = auto()
    """An administrator has to name a client of the issuer in its settings first."""


@dataclass(frozen=True, slots=True)
class Means:
    """What the people of an organisation show who they are by."""

    issuers: tuple[str, ...]
    """At which they can sign in."""
    token: bool
    """Whether those of the others can show a token of theirs."""
    others: tuple[str, ...]
    """Without a client for browsers."""


@dataclass(frozen=True, slots=True)
class Started:
    """Where the browser goes to sign in, and the cookie that has to come back with it."""

    url: str
    cookie: str


class SignIns:
    """Signs people in.

    Args:
        keyring: Seals what a browser keeps meanwhile.
        issuers: Verify tokens.
        admission: Admits their owners.
        clients: The gateway as a client of issuers, by issuer, where they have one for browsers.
        takes_tokens: Whether a token will do where an issuer has none.
        discovery: Finds their endpoints.
        protocol: Redeems codes.
        public_url: Where the gateway is, without a slash at its end.
        clock: The time, with its zone.
    """

    def __init__(
        self,
        *,
        keyring: Keyring,
        issuers: IssuerDirectory,
        admission: Admission,
        clients: Mapping[str, BrowserSignIn],
        takes_tokens: bool,
        discovery: Discovery,
        protocol: AuthorizationClient,
        public_url: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._keyring = keyring
        self._issuers = issuers
        self._admission = admission
        self._clients = clients
        self._takes_tokens = takes_tokens
        self._discovery = discovery
        self._protocol = protocol
        self._public_url = public_url
        self._clock = clock

    def by(self, ticket: Ticket) -> By:
        """Return what whoever asked can show who they are by."""
        if ticket.principal.issuer in self._clients:
            return By.ISSUER
        return By.TOKEN if self._takes_tokens else By.NOTHING

    def means(self, organization: str) -> Means:
        """Return what somebody can show who they are by whose issuer may name that organisation."""
        fit = [issuer for issuer in self._issuers.issuers if self._issuers.may_name(issuer, organization)]
        others = tuple(issuer for issuer in fit if issuer not in self._clients)
        return Means(
            issuers=tuple(issuer for issuer in fit if issuer in self._clients),
            token=self._takes_tokens and bool(others),
            others=others,
        )

    async def start(self, issuer: str, path: str) -> Started:
        """Begin a sign-in at an issuer that has a client for browsers.

        Args:
            issuer: From this deployment's settings.
            path: Of the page that the person comes back to.

        Raises:
            AuthorizationServerError: The issuer cannot be found.
        """
        server, client, scopes = await self._server(issuer)
        state, nonce = secrets.token_urlsafe(_SECRET_BYTES), secrets.token_urlsafe(_SECRET_BYTES)
        verifier = SecretStr(secrets.token_urlsafe(48))
        url = self._protocol.authorization_url(
            replace(server, authorize_parameters=(*server.authorize_parameters, ("nonce", nonce))),
            client,
            redirect_uri=self._redirect_uri,
            state=state,
            verifier=verifier,
            scopes=scopes,
            resource=None,
        )
        document = {
            "path": path,
            "issuer": issuer,
            "state": state,
            "nonce": nonce,
            "verifier": verifier.get_secret_value(),
        }
        plaintext = json.dumps(document, separators=(",", ":")).encode()
        return Started(url, self._keyring.seal_text_until(plaintext, _AAD, self._now() + TTL_S))

    async def finish(self, answer: Answer, cookie: str | None) -> tuple[SignedIn, str]:
        """Return who signed in, and the path of the page that they came from.

        Raises:
            FlowRefusedError: This browser has begun no such sign-in, or the answer must not be believed.
            AuthorizationServerError: The issuer refused, or the code could not be redeemed.
        """
        begun = self._begun(cookie)
        if answer.state is None or not hmac.compare_digest(answer.state.encode(), begun["state"].encode()):
            raise FlowRefusedError(_FAILED, reason="state_differs")
        server, client, _ = await self._server(begun["issuer"])
        if answer.issuer != server.issuer and (answer.issuer is not None or server.announces_issuer):
            raise FlowRefusedError(_FAILED, reason="issuer_differs")
        if answer.error is not None or not answer.code or len(answer.code) > _MAX_CODE:
            raise AuthorizationServerError("The sign-in was not completed. Open the link again.")
        tokens = await self._protocol.exchange(
            server,
            client,
            code=answer.code,
            verifier=SecretStr(begun["verifier"]),
            redirect_uri=self._redirect_uri,
            resource=None,
        )
        if tokens.id_token is None:
            raise AuthorizationServerError("The issuer gave no id token, so it is not known who signed in.")
        id_token = tokens.id_token.get_secret_value()
        verified = await self._verified(id_token, client.client_id)
        if verified.issuer != begun["issuer"]:
            raise FlowRefusedError(_FAILED, reason="id_token_of_another_issuer")
        claims = _payload(id_token)
        nonce = claims.get("nonce")
        if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), begun["nonce"].encode()):
            raise FlowRefusedError(_FAILED, reason="nonce_differs")
        claimant = Claimant.of(verified)
        # OpenID Connect Core 1.0, section 5.1; some issuers write it as a string.
        address_verified = claims.get("email_verified")
        if address_verified is False or address_verified == "false":
            claimant = replace(claimant, email=None)
        return SignedIn(claimant), begun["path"]

    async def with_token(self, ticket: Ticket, token: str) -> SignedIn:
        """Return who gave ``token``, a bearer token for the place that the ticket was made at.

        Raises:
            ForbiddenError: It is not good here.
        """
        principal = ticket.principal
        audiences = [self._public_url]
        if ticket.workspace:
            audiences.append(f"{self._public_url}/mcp/{principal.org_slug}/{ticket.workspace}")
        verified = await self._shown(token, audiences)
        who = await self._admission.admit(verified)
        return SignedIn(Claimant.of(verified), who.org_id)

    async def with_own_token(self, token: str) -> SignedIn:
        """Return who gave ``token``, a bearer token for the API whose owner may be a member of nothing yet.

        Raises:
            ForbiddenError: It is not good here, names no organisation or a suspended one, or is of an issuer at which
                its owner can sign in.
            NotFoundError: The organisation that it names does not exist.
        """
        verified = await self._shown(token, [self._public_url])
        if verified.issuer in self._clients:
            raise ForbiddenError("Sign in at the issuer of this token instead.")
        organization = await self._admission.organization(verified)
        return SignedIn(Claimant.of(verified), organization.id)

    async def _shown(self, token: str, audiences: Sequence[str]) -> VerifiedToken:
        bare = _SCHEME.sub("", token, count=1).strip()
        header = [(b"authorization", b"Bearer " + bare.encode("ascii", "replace"))]
        try:
            verified = await verified_token(self._issuers, bearer_token(header), audiences=tuple(audiences))
        except UnauthenticatedError as error:
            raise ForbiddenError("This token is not good here: it is expired, or not for this gateway.") from error
        if verified.issuer not in self._issuers.issuers:
            raise ForbiddenError("This token is a session's. Show one of your own.")
        required = self._issuers.required_scopes(verified.issuer)
        if not verified.scopes.issuperset(required):
            raise InsufficientScopeError(required)
        return verified

    @property
    def _redirect_uri(self) -> str:
        return f"{self._public_url}{SIGNED_IN_PATH}"

    async def _server(self, issuer: str) -> tuple[AuthorizationServer, Client, tuple[str, ...]]:
        settings = self._clients[issuer]
        client = Client(
            issuer=issuer,
            client_id=settings.client_id,
            secret=settings.client_secret,
            auth_method=ClientAuth.NONE if settings.client_secret is None else ClientAuth(settings.auth_method),
            registration=Registration.MANUAL,
        )
        return await self._discovery.server(issuer, chosen=True), client, settings.scopes

    async def _verified(self, id_token: str, client_id: str) -> VerifiedToken:
        try:
            verified = await self._issuers.verify(id_token, client_id)
        except UnauthenticatedError as error:
            raise FlowRefusedError(_FAILED, reason=f"id_token_{error.reason}") from None
        # The issuer's settings may list audiences of access tokens besides.
        if client_id not in verified.audiences:
            raise FlowRefusedError(_FAILED, reason="id_token_for_another_client")
        return verified

    def _begun(self, cookie: str | None) -> dict[str, str]:
        try:
            opened = self._keyring.open_text_unexpired((cookie or "")[:_MAX_COOKIE], _AAD, self._now())
        except SealError:
            raise FlowRefusedError(_FAILED, reason="no_sign_in_begun") from None
        begun: dict[str, str] = json.loads(opened)
        return begun

    def _now(self) -> int:
        return int(self._clock().timestamp())


def _payload(token: str) -> dict[str, object]:
    """Return the claims of a token that has been verified."""
    part = token.split(".")[1]
    claims: dict[str, object] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims

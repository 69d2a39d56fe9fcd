"""Stand-ins for the four providers of the presets, answering as the providers document.

The documents are listed in docs/reference/oauth-providers.md. What they refuse is refused in their words, so that a
request that they would not take fails here as it would there.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.responses import JSONResponse, Response

from unit.oauth.sites import Site

if TYPE_CHECKING:
    from unit.oauth.sites import Asked

CLIENT_ID, CLIENT_SECRET = "app-id", "app-secret"


@dataclass(slots=True)
class StandIn(Site):
    """What the four have in common: codes with PKCE, and a client that has to show its secret."""

    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    refresh_tokens: set[str] = field(default_factory=set)
    granted: list[dict[str, str]] = field(default_factory=list)

    def agree(self, authorization_url: str) -> dict[str, str]:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(authorization_url).query).items()}
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        return {"state": asked["state"], "code": code}

    def redeemed(self, form: dict[str, str]) -> dict[str, str] | None:
        """Return what the code was asked for with, if the request may have it."""
        began = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        known = form.get("client_id") == CLIENT_ID and form.get("client_secret") == CLIENT_SECRET
        if began is None or not known or began["code_challenge"] != challenge:
            return None
        self.granted.append(began)
        return began

    def spent(self, form: dict[str, str]) -> bool:
        """Take a refresh token away; tell whether it was there."""
        token = form.get("refresh_token", "")
        known = token in self.refresh_tokens
        self.refresh_tokens.discard(token)
        return known

    def new(self, prefix: str) -> str:
        return f"{prefix}{secrets.token_hex(20)}"

    def new_refresh(self, prefix: str) -> str:
        token = self.new(prefix)
        self.refresh_tokens.add(token)
        return token


@dataclass(slots=True)
class GitHub(StandIn):
    """GitHub Docs: "Authorizing OAuth apps" (parameters; response as a form by default), "Troubleshooting OAuth app
    access token request errors" (errors with status 200), "Refreshing user access tokens" (8 hours, rotation,
    ``bad_refresh_token``), REST "Delete an app authorization" (204; Basic authentication of the app)."""

    expiring: bool = False
    deleted: list[str] = field(default_factory=list)
    only_forms: bool = False

    def lay_down(self) -> None:
        self.answers = {"/login/oauth/access_token": self._token, f"/applications/{CLIENT_ID}/grant": self._delete}

    def _token(self, asked: Asked) -> Response:
        form = asked.form
        as_json = "application/json" in asked.headers.get("accept", "") and not self.only_forms

        def answer(document: dict[str, Any]) -> Response:
            if as_json:
                return JSONResponse(document)
            return Response(urlencode(document), media_type="application/x-www-form-urlencoded")

        if form.get("grant_type") == "refresh_token":
            if not self.spent(form):
                described = {"error_description": "The refresh token passed is incorrect or expired."}
                return answer({"error": "bad_refresh_token", **described})
        elif form.get("client_secret") != CLIENT_SECRET:
            described = {"error_description": "The client_id and/or client_secret passed are incorrect."}
            return answer({"error": "incorrect_client_credentials", **described})
        elif self.redeemed(form) is None:
            described = {"error_description": "The code passed is incorrect or expired."}
            return answer({"error": "bad_verification_code", **described})
        document: dict[str, Any] = {"access_token": self.new("gho_"), "scope": "repo,gist", "token_type": "bearer"}
        if self.expiring:
            document |= {"expires_in": 28_800, "scope": "", "access_token": self.new("ghu_")}
            document |= {"refresh_token": self.new_refresh("ghr_"), "refresh_token_expires_in": 15_897_600}
        return answer(document)

    def _delete(self, asked: Asked) -> Response:
        expected = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        if asked.method != "DELETE" or asked.headers.get("authorization") != f"Basic {expected}":
            return Response(status_code=404)
        self.deleted.append(asked.json["access_token"])
        return Response(status_code=204)


@dataclass(slots=True)
class Google(StandIn):
    """Google Identity: "Using OAuth 2.0 for Web Server Applications": a refresh token only for ``access_type=offline``
    and only with the first consent unless ``prompt=consent``; refreshing gives no new refresh token; revocation by POST
    of the form parameter ``token``, 400 ``invalid_token`` for one that is gone; unknown parameters are refused."""

    consented: bool = False
    revoked: list[str] = field(default_factory=list)

    def lay_down(self) -> None:
        self.answers = {"/token": self._token, "/revoke": self._revoke}

    def _token(self, asked: Asked) -> Response:
        form = asked.form
        document: dict[str, Any] = {
            "access_token": self.new("ya29."),
            "expires_in": 3599,
            "scope": "openid https://www.googleapis.com/auth/userinfo.email",
            "token_type": "Bearer",
            "id_token": "e30.e30.",
        }
        if form.get("grant_type") == "refresh_token":
            known = form.get("refresh_token") in self.refresh_tokens
            described = {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
            return JSONResponse(document) if known else JSONResponse(described, 400)
        began = self.redeemed(form)
        if began is None:
            return JSONResponse({"error": "invalid_grant", "error_description": "Bad Request"}, 400)
        first, self.consented = not self.consented or began.get("prompt") == "consent", True
        if began.get("access_type") == "offline" and first:
            document["refresh_token"] = self.new_refresh("1//")
        return JSONResponse(document)

    def _revoke(self, asked: Asked) -> Response:
        token = asked.form["token"]
        self.revoked.append(token)
        if token.startswith("1//") and token not in self.refresh_tokens:
            return JSONResponse({"error": "invalid_token", "error_description": "Token expired or revoked"}, 400)
        self.refresh_tokens.discard(token)
        return JSONResponse({})


@dataclass(slots=True)
class Entra(StandIn):
    """Microsoft Learn: "Microsoft identity platform and OAuth 2.0 authorization code flow": the tenant in the path, a
    refresh token only for ``offline_access``, which replaces itself and does not end its predecessor;
    "AADSTS error codes": 9010010 for ``resource`` beside v2 scopes, 70008 for a grant that has expired."""

    tenant: str = "organizations"
    conditional_access: bool = False
    """Whether the directory has come to want a second factor."""

    def lay_down(self) -> None:
        self.answers = {f"/{self.tenant}/oauth2/v2.0/token": self._token}

    def _token(self, asked: Asked) -> Response:
        form = asked.form
        if "resource" in form:
            return self._error("invalid_target", "AADSTS9010010: The resource parameter provided in the request")
        if form.get("grant_type") == "refresh_token":
            if self.conditional_access:
                return self._error("interaction_required", "AADSTS50076: You must use multi-factor authentication")
            if form.get("refresh_token") not in self.refresh_tokens:
                return self._error("invalid_grant", "AADSTS70008: The provided authorization code or refresh token")
            scope = self.granted[-1]["scope"]
        else:
            began = self.redeemed(form)
            if began is None or "resource" in began:
                return self._error("invalid_grant", "AADSTS501481: The Code_Verifier does not match")
            scope = began["scope"]
        document: dict[str, Any] = {
            "token_type": "Bearer",
            "scope": " ".join(part for part in scope.split() if part != "offline_access"),
            "expires_in": 4799,
            "ext_expires_in": 4799,
            "access_token": self.new("eyJ0"),
        }
        if "offline_access" in scope.split():
            document["refresh_token"] = self.new_refresh("0.A")
        return JSONResponse(document)

    def _error(self, code: str, description: str) -> Response:
        number = int(re.findall(r"AADSTS(\d+)", description)[0])
        traced = dict.fromkeys(("trace_id", "correlation_id"), "255d1aef-8c98-452f-ac51-23d051240864")
        said = {"error": code, "error_description": description, "error_codes": [number], **traced}
        return JSONResponse({**said, "timestamp": "2026-01-09 02:02:12Z"}, 400)


@dataclass(slots=True)
class Auth0(StandIn):
    """Auth0 Docs: "Call Your API Using the Authorization Code Flow with PKCE" (``audience``), "Get Refresh Tokens"
    (``offline_access``), "Configure Refresh Token Rotation" (a spent token ends the family: 403 ``invalid_grant``),
    "Revoke Refresh Tokens" (200 whatever the token, refresh tokens alone)."""

    offline: bool = True
    """Whether the API allows offline access."""
    revoked: list[str] = field(default_factory=list)

    def lay_down(self) -> None:
        self.answers = {"/oauth/token": self._token, "/oauth/revoke": self._revoke}

    def _token(self, asked: Asked) -> Response:
        form = asked.form
        if form.get("grant_type") == "refresh_token":
            if not self.spent(form):
                self.refresh_tokens.clear()
                return JSONResponse({"error": "invalid_grant", "error_description": "Unknown or invalid"}, 403)
            scope = self.granted[-1]["scope"]
        else:
            began = self.redeemed(form)
            if began is None:
                return JSONResponse({"error": "invalid_grant", "error_description": "Failed to verify"}, 403)
            scope = began["scope"]
        prefix = "jwt." if "audience" in self.granted[-1] else "opaque."
        document: dict[str, Any] = {"access_token": self.new(prefix), "expires_in": 86_400, "token_type": "Bearer"}
        if self.offline and "offline_access" in scope.split():
            document["refresh_token"] = self.new_refresh("v1.")
        return JSONResponse({**document, "scope": scope, "id_token": "e30.e30."})

    def _revoke(self, asked: Asked) -> Response:
        form = asked.form
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return JSONResponse({"error": "invalid_client", "error_description": "Unauthorized"}, 401)
        self.revoked.append(form["token"])
        self.refresh_tokens.discard(form["token"])
        return Response()

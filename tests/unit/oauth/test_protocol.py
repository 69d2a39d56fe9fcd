from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse

from agentapi.oauth.discovery import client_metadata
from agentapi.oauth.errors import AuthorizationServerError, GrantRefusedError
from agentapi.oauth.models import AuthorizationServer, Client, ClientAuth, Registration, Tokens
from agentapi.oauth.protocol import AuthorizationClient, split_scopes
from unit.oauth.sites import Site, egress, site

VERIFIER = SecretStr("v" * 43)
REDIRECT = "https://gateway.example/api/v1/mcp/oauth/callback"
GOOD = {"access_token": "at-1", "token_type": "Bearer", "expires_in": 3600, "refresh_token": "rt-1", "scope": "a b"}


def server(url: str, **changes: Any) -> AuthorizationServer:
    given = {
        "issuer": url,
        "authorization_endpoint": f"{url}/authorize",
        "token_endpoint": f"{url}/token",
        "registration_endpoint": f"{url}/register",
        **changes,
    }
    return AuthorizationServer(**given)


def client(auth: ClientAuth = ClientAuth.BASIC, client_id: str = "id", secret: str = "secret") -> Client:  # noqa: S107 - nobody's
    return Client(
        issuer="x",
        client_id=client_id,
        secret=SecretStr(secret),
        auth_method=auth,
        registration=Registration.MANUAL,
    )


async def exchange(at: Site, by: Client | None = None, **given: Any) -> Tokens:
    async with egress() as out:
        return await AuthorizationClient(out, timeout_s=given.pop("timeout_s", 5.0)).exchange(
            server(at.url),
            by or client(),
            **{"code": "c0de", "verifier": VERIFIER, "redirect_uri": REDIRECT, "resource": None, **given},
        )


async def refresh(at: Site, by: Client | None = None, resource: str | None = None) -> Tokens:
    async with egress() as out:
        return await AuthorizationClient(out, timeout_s=5.0).refresh(
            server(at.url), by or client(), refresh_token=SecretStr("rt-0"), resource=resource
        )


async def test_the_authorization_url_carries_pkce_state_and_resource() -> None:
    async with egress() as out:
        url = AuthorizationClient(out, timeout_s=5.0).authorization_url(
            server("https://as.example", authorize_parameters=(("access_type", "offline"),)),
            client(),
            redirect_uri=REDIRECT,
            state="st",
            verifier=VERIFIER,
            scopes=("a", "b"),
            resource="https://up.example/mcp",
        )
    parts = urlsplit(url)
    assert parts._replace(query="").geturl() == "https://as.example/authorize"
    digest = hashlib.sha256(VERIFIER.get_secret_value().encode()).digest()
    assert parse_qs(parts.query, strict_parsing=True) == {
        "response_type": ["code"],
        "client_id": ["id"],
        "redirect_uri": [REDIRECT],
        "scope": ["a b"],
        "state": ["st"],
        "code_challenge": [base64.urlsafe_b64encode(digest).decode().rstrip("=")],
        "code_challenge_method": ["S256"],
        "resource": ["https://up.example/mcp"],
        "access_type": ["offline"],
    }


async def test_a_code_is_redeemed_with_the_verifier_and_the_resource() -> None:
    async with site(lambda _: {"/token": GOOD}) as at:
        tokens = await exchange(at, resource="https://up.example/mcp")
    assert tokens.access_token.get_secret_value() == "at-1"
    assert tokens.refresh_token is not None
    assert tokens.refresh_token.get_secret_value() == "rt-1"
    assert (tokens.scopes, tokens.expires_in_s) == (("a", "b"), 3600)
    assert "at-1" not in repr(tokens)
    assert "rt-1" not in repr(tokens)
    assert at.asked[0].form == {
        "grant_type": "authorization_code",
        "code": "c0de",
        "redirect_uri": REDIRECT,
        "code_verifier": VERIFIER.get_secret_value(),
        "resource": "https://up.example/mcp",
    }
    assert "application/json" in at.asked[0].headers["accept"]


async def test_a_refresh_sends_the_token_and_the_resource_and_no_scope() -> None:
    async with site(lambda _: {"/token": GOOD}) as at:
        assert (await refresh(at, resource="https://up.example/mcp")).expires_in_s == 3600
    assert at.asked[0].form == {
        "grant_type": "refresh_token",
        "refresh_token": "rt-0",
        "resource": "https://up.example/mcp",
    }


async def test_an_answer_without_a_new_refresh_token_says_so() -> None:
    async with site(lambda _: {"/token": {"access_token": "a", "token_type": "bearer"}}) as at:
        tokens = await exchange(at)
        assert (tokens.refresh_token, tokens.scopes, tokens.expires_in_s) == (None, None, None)


@pytest.mark.parametrize(
    ("auth", "header", "in_form"),
    [
        (ClientAuth.BASIC, f"Basic {base64.b64encode(b'my+id%3A%C3%BC:s%3A%2B+e').decode()}", {}),
        (ClientAuth.POST, None, {"client_id": "my id:ü", "client_secret": "s:+ e"}),
        (ClientAuth.NONE, None, {"client_id": "my id:ü"}),
    ],
)
async def test_the_client_authenticates_as_it_is_registered(
    auth: ClientAuth, header: str | None, in_form: dict[str, str]
) -> None:
    """RFC 6749, section 2.3.1: both parts of the Basic header are form-encoded."""
    async with site(lambda _: {"/token": GOOD}) as at:
        await exchange(at, client(auth, "my id:ü", "s:+ e"))
        await refresh(at, client(auth, "my id:ü", "s:+ e"))
    for asked in at.asked:
        assert asked.headers.get("authorization") == header
        assert {name: value for name, value in asked.form.items() if name.startswith("client_")} == in_form


async def test_a_form_is_read_like_json_and_scopes_may_be_separated_by_commas() -> None:
    """GitHub, "Authorizing OAuth apps": the response takes this form by default."""
    form = Response(
        "access_token=gho_16C7e42F&scope=repo%2Cgist&token_type=bearer", media_type="application/x-www-form-urlencoded"
    )
    async with site(lambda _: {"/token": form}) as at:
        tokens = await exchange(at)
    assert tokens.access_token.get_secret_value() == "gho_16C7e42F"
    assert tokens.scopes == ("repo", "gist")
    assert tokens.expires_in_s is None


@pytest.mark.parametrize(
    "answer",
    [
        JSONResponse({"error": "bad_verification_code", "error_description": "secret words"}),
        JSONResponse({"error": "bad_verification_code"}, 400),
        Response("error=bad_verification_code", media_type="application/x-www-form-urlencoded"),
    ],
)
async def test_an_error_is_one_whatever_its_status_and_form(answer: Response) -> None:
    async with site(lambda _: {"/token": answer}) as at:
        with pytest.raises(GrantRefusedError) as refused:
            await exchange(at)
    assert refused.value.error == "bad_verification_code"
    assert "secret words" not in refused.value.message


async def test_an_error_code_that_is_none_is_not_repeated() -> None:
    async with site(lambda _: {"/token": JSONResponse({"error": "<script>"}, 400)}) as at:
        with pytest.raises(GrantRefusedError, match="'unknown'"):
            await exchange(at)


def endless() -> StreamingResponse:
    async def chunks() -> Any:
        while True:
            yield b" " * 65_536
            await asyncio.sleep(0)

    return StreamingResponse(chunks(), media_type="application/json")


@pytest.mark.parametrize(
    "answer",
    [
        HTMLResponse("<html>at-1</html>"),
        HTMLResponse("<html>", 400),
        JSONResponse(["at-1"]),
        JSONResponse({}),
        JSONResponse({**GOOD, "token_type": "mac"}),
        JSONResponse({"access_token": "at-1"}),
        JSONResponse({**GOOD, "access_token": "at\r\nX-Evil: 1"}),
        JSONResponse({**GOOD, "access_token": ""}),
        JSONResponse({**GOOD, "access_token": {"a": 1}}),
        JSONResponse({**GOOD, "expires_in": -1}),
        JSONResponse({**GOOD, "expires_in": 10**12}),
        JSONResponse({**GOOD, "expires_in": "soon"}),
        JSONResponse({**GOOD, "padding": "x" * 65_536}),
        JSONResponse(GOOD, 201),
        JSONResponse(GOOD, 400),
        JSONResponse(GOOD, 500),
        Response(status_code=502),
        RedirectResponse("/elsewhere"),
    ],
)
async def test_what_is_no_token_answer_yields_no_token(answer: Response) -> None:
    async with site(lambda _: {"/token": answer, "/elsewhere": GOOD}) as at:
        with pytest.raises(AuthorizationServerError) as failed:
            await exchange(at)
        with pytest.raises(AuthorizationServerError):
            await refresh(at)
    assert at.paths() == ["/token", "/token"]
    assert "at-1" not in f"{failed.value.message} {failed.value.log_context}"


async def test_an_answer_without_end_is_given_up() -> None:
    async with site(lambda _: {"/token": endless()}) as at:
        with pytest.raises(AuthorizationServerError, match="could not be read"):
            await exchange(at)


async def test_a_slow_answer_is_given_up_in_the_time_of_the_whole() -> None:
    def dripping(_: object) -> StreamingResponse:
        async def chunks() -> Any:
            while True:
                yield b" "
                await asyncio.sleep(0.01)

        return StreamingResponse(chunks(), media_type="application/json")

    async with site(lambda _: {"/token": dripping}) as at:
        with pytest.raises(AuthorizationServerError, match="in time"):
            await exchange(at, timeout_s=0.2)


async def test_expires_at_of_a_server_is_not_believed() -> None:
    async with site(lambda _: {"/token": {**GOOD, "expires_in": 5, "expires_at": 9_999_999_999}}) as at:
        assert (await exchange(at)).expires_in_s == 5


async def test_a_revocation_is_done_when_the_server_says_so() -> None:
    async with site(lambda _: {"/revoke": Response(), "/broken": Response(status_code=503)}) as at, egress() as out:
        speaker = AuthorizationClient(out, timeout_s=5.0)
        await speaker.revoke(f"{at.url}/revoke", client(), token=SecretStr("rt"), hint="refresh_token")
        assert at.asked[0].form == {"token": "rt", "token_type_hint": "refresh_token"}
        with pytest.raises(AuthorizationServerError):
            await speaker.revoke(f"{at.url}/broken", client(), token=SecretStr("rt"), hint="refresh_token")


async def test_github_deletes_the_whole_grant() -> None:
    """GitHub REST, "Delete an app authorization": 204, or 422 for a token that it does not take."""
    path = "/applications/id/grant"
    async with site(lambda _: {path: Response(status_code=204)}) as at, egress() as out:
        speaker = AuthorizationClient(out, timeout_s=5.0)
        endpoint = f"{at.url}/applications/{{client_id}}/grant"
        await speaker.revoke_at_github(endpoint, client(), token=SecretStr("gho_1"))
        at.answers[path] = Response(status_code=422)
        with pytest.raises(AuthorizationServerError, match="did not confirm"):
            await speaker.revoke_at_github(endpoint, client(), token=SecretStr("gho_1"))
    assert (at.asked[0].method, at.asked[0].json) == ("DELETE", {"access_token": "gho_1"})
    assert at.asked[0].headers["authorization"] == f"Basic {base64.b64encode(b'id:secret').decode()}"


async def test_a_registration_is_kept_for_its_issuer() -> None:
    answer = {"client_id": "new", "client_secret": "shh", "client_secret_expires_at": 0, "issuer": "https://evil"}
    async with site(lambda _: {"/register": JSONResponse(answer, 201)}) as at, egress() as out:
        metadata = client_metadata("https://gateway.example", REDIRECT, ClientAuth.BASIC)
        made = await AuthorizationClient(out, timeout_s=5.0).register(server(at.url), metadata, REDIRECT)
    assert at.asked[0].json["redirect_uris"] == [REDIRECT]
    assert (made.issuer, made.client_id, made.auth_method) == (at.url, "new", ClientAuth.BASIC)
    assert (made.redirect_uri, made.secret_expires_at) == (REDIRECT, None)
    assert "shh" not in repr(made)


@pytest.mark.parametrize("answer", [JSONResponse({}, 201), JSONResponse({"error": "x"}, 400), HTMLResponse("x")])
async def test_a_registration_that_fails_is_an_error(answer: Response) -> None:
    async with site(lambda _: {"/register": answer}) as at, egress() as out:
        metadata = client_metadata("https://gateway.example", REDIRECT, ClientAuth.NONE)
        with pytest.raises(AuthorizationServerError):
            await AuthorizationClient(out, timeout_s=5.0).register(server(at.url), metadata, REDIRECT)


@pytest.mark.parametrize(
    ("asked", "named", "secret", "kept"),
    [
        (ClientAuth.NONE, {}, "shh", (ClientAuth.NONE, None)),
        (ClientAuth.BASIC, {"token_endpoint_auth_method": "none"}, "shh", (ClientAuth.NONE, None)),
        (ClientAuth.NONE, {"token_endpoint_auth_method": "client_secret_post"}, "shh", (ClientAuth.POST, "shh")),
        (ClientAuth.BASIC, {"token_endpoint_auth_method": "client_secret_post"}, None, (ClientAuth.NONE, None)),
    ],
)
async def test_a_secret_is_kept_where_the_registered_client_authenticates_with_it(
    asked: ClientAuth, named: dict[str, str], secret: str | None, kept: tuple[ClientAuth, str | None]
) -> None:
    answer = {"client_id": "new", "client_secret": secret, **named}
    async with site(lambda _: {"/register": JSONResponse(answer, 201)}) as at, egress() as out:
        metadata = client_metadata("https://gateway.example", REDIRECT, asked)
        made = await AuthorizationClient(out, timeout_s=5.0).register(server(at.url), metadata, REDIRECT)
    assert (made.auth_method, made.secret and made.secret.get_secret_value()) == kept


def test_scopes_are_split_once_each() -> None:
    assert split_scopes("a,b  a c,") == ("a", "b", "c")

from __future__ import annotations

from typing import Any

import pytest
from starlette.responses import JSONResponse, RedirectResponse, Response

from agentapi.egress import AddressPolicy
from agentapi.errors import EgressRefusedError
from agentapi.oauth.discovery import Challenge, Discovery, parse_challenge, union
from agentapi.oauth.errors import AuthorizationServerError
from agentapi.oauth.models import Revocation
from unit.oauth.sites import LOOPBACK, Site, egress, server_metadata, site

SERVER = "/.well-known/oauth-authorization-server"
OIDC = "/.well-known/openid-configuration"
RESOURCE = "/.well-known/oauth-protected-resource"


def challenged(value: str) -> Response:
    return Response(status_code=401, headers={"WWW-Authenticate": value})


def resource_metadata(resource: str, *issuers: str, **more: Any) -> dict[str, Any]:
    return {"resource": resource, "authorization_servers": list(issuers), **more}


async def discovered(of: Site, path: str = "/mcp") -> Any:
    async with egress() as out:
        return await Discovery(out, timeout_s=5.0).resource(of.url + path)


async def server(issuer: str, *, chosen: bool = False, policy: AddressPolicy = LOOPBACK) -> Any:
    async with egress(policy) as out:
        return await Discovery(out, timeout_s=5.0).server(issuer, chosen=chosen)


async def test_the_metadata_that_the_challenge_names_is_read_first() -> None:
    def build(url: str) -> dict[str, Any]:
        return {
            "/mcp": challenged(f'Bearer error="invalid_token", resource_metadata="{url}/meta", scope="a b"'),
            "/meta": resource_metadata(f"{url}/mcp", "https://as.example", scopes_supported=["a", "b", "c"]),
            f"{RESOURCE}/mcp": resource_metadata(f"{url}/mcp", "https://other.example"),
        }

    async with site(build) as upstream:
        found = await discovered(upstream)
    assert (found.resource, found.issuers) == (f"{upstream.url}/mcp", ("https://as.example",))
    assert found.scopes == ("a", "b")


async def test_without_a_challenge_the_path_is_tried_before_the_root() -> None:
    async with site(
        lambda url: {
            f"{RESOURCE}/mcp/x": resource_metadata(f"{url}/mcp/x", "https://as.example", scopes_supported=["c"]),
            RESOURCE: resource_metadata(url, "https://root.example"),
        }
    ) as upstream:
        assert (await discovered(upstream, "/mcp/x")).issuers == ("https://as.example",)
        assert (await discovered(upstream, "/mcp/x")).scopes == ("c",)
        assert (await discovered(upstream, "/other")).issuers == ("https://root.example",)
    assert upstream.paths()[-3:] == ["/other", f"{RESOURCE}/other", RESOURCE]


async def test_a_server_without_resource_metadata_is_its_own_authorization_server() -> None:
    async with site(lambda _: {"/mcp": challenged("Bearer")}) as upstream:
        found = await discovered(upstream)
    assert (found.resource, found.issuers) == (f"{upstream.url}/mcp", (upstream.url,))


@pytest.mark.parametrize("claimed", ["https://bank.example/mcp", "{url}/mcp/other", "{url}/mc", "{url}/mcp?x=1"])
async def test_metadata_about_another_resource_asks_for_no_token(claimed: str) -> None:
    """A confused deputy: the upstream would be given a token that opens somebody else's door."""

    def build(url: str) -> dict[str, Any]:
        return {f"{RESOURCE}/mcp": resource_metadata(claimed.format(url=url), "https://as.example")}

    async with site(build) as upstream:
        with pytest.raises(AuthorizationServerError, match="another resource"):
            await discovered(upstream)


@pytest.mark.parametrize("claimed", ["{url}", "{url}/", "{url}/mcp/"])
async def test_a_resource_may_contain_the_endpoint(claimed: str) -> None:
    async with site(
        lambda url: {f"{RESOURCE}/mcp": resource_metadata(claimed.format(url=url), "https://as.example")}
    ) as upstream:
        assert (await discovered(upstream)).resource == claimed.format(url=upstream.url)


@pytest.mark.parametrize(
    "document",
    [b"<html>", b"[]", b'{"resource": "x"}', b'{"resource": 1, "authorization_servers": ["https://a.example"]}',
     b'{"resource": "https://a.example", "authorization_servers": []}'],
)  # fmt: skip
async def test_malformed_resource_metadata_ends_the_search(document: bytes) -> None:
    async with site(lambda url: {f"{RESOURCE}/mcp": Response(document), RESOURCE: resource_metadata(url, "x:y")}) as up:
        with pytest.raises(AuthorizationServerError, match="malformed"):
            await discovered(up)


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest", "http://10.0.0.1/", "http://[::1]/"])
async def test_metadata_at_a_private_address_is_refused(target: str) -> None:
    async with site(lambda _: {"/mcp": challenged(f'Bearer resource_metadata="{target}"')}) as upstream:
        with pytest.raises(EgressRefusedError):
            await discovered(upstream)
    async with site(lambda _: {f"{RESOURCE}/mcp": RedirectResponse(target)}) as upstream:
        with pytest.raises(EgressRefusedError):
            await discovered(upstream)
    with pytest.raises(EgressRefusedError):
        await server(target)


@pytest.mark.parametrize("path", [SERVER, OIDC])
async def test_the_metadata_of_a_root_issuer_is_found(path: str) -> None:
    async with site(lambda url: {path: server_metadata(url)}) as upstream:
        found = await server(upstream.url)
    assert found.token_endpoint == f"{upstream.url}/token"
    assert (found.takes_resource, found.announces_issuer, found.takes_metadata_document) == (True, False, False)
    assert found.auth_methods == ("client_secret_basic", "none")
    assert found.offline_scope == "offline_access"
    assert found.revocation is Revocation.NONE


@pytest.mark.parametrize("path", [f"{SERVER}/t/1", f"{OIDC}/t/1", f"/t/1{OIDC}"])
async def test_the_metadata_of_an_issuer_with_a_path_is_found_at_each_place_in_order(path: str) -> None:
    async with site(lambda url: {path: server_metadata(f"{url}/t/1")}) as upstream:
        assert (await server(f"{upstream.url}/t/1")).issuer == f"{upstream.url}/t/1"
    places = [f"{SERVER}/t/1", f"{OIDC}/t/1", f"/t/1{OIDC}"]
    assert upstream.paths() == places[: places.index(path) + 1]


@pytest.mark.parametrize("claimed", ["https://honest.example", "{url}/t/1/", "{url}/T/1", "{url}"])
async def test_metadata_of_another_issuer_is_discarded(claimed: str) -> None:
    """Mix-up: the endpoints of one server under the name of another."""

    def build(url: str) -> dict[str, Any]:
        return {f"{SERVER}/t/1": server_metadata(claimed.format(url=url))}

    async with site(build) as upstream:
        with pytest.raises(AuthorizationServerError, match="another issuer"):
            await server(f"{upstream.url}/t/1")


async def test_not_even_a_slash_may_differ_between_two_issuers() -> None:
    async with site(lambda url: {SERVER: server_metadata(f"{url}/")}) as upstream:
        with pytest.raises(AuthorizationServerError, match="another issuer"):
            await server(upstream.url)
        assert (await server(f"{upstream.url}/")).issuer == f"{upstream.url}/"


@pytest.mark.parametrize("methods", [..., [], ["plain"]])
async def test_a_server_without_s256_is_refused_unless_it_was_chosen(methods: Any) -> None:
    async with site(lambda url: {SERVER: server_metadata(url, code_challenge_methods_supported=methods)}) as upstream:
        with pytest.raises(AuthorizationServerError, match="PKCE"):
            await server(upstream.url)
        assert (await server(upstream.url, chosen=True)).issuer == upstream.url


@pytest.mark.parametrize("endpoint", ["authorization_endpoint", "token_endpoint", "registration_endpoint"])
@pytest.mark.parametrize("address", ["javascript:alert(1)", "http://10.0.0.1/x", "file:///etc/passwd", "/relative"])
async def test_an_endpoint_that_may_not_be_requested_is_refused(endpoint: str, address: str) -> None:
    async with site(lambda url: {SERVER: server_metadata(url, **{endpoint: address})}) as upstream:
        with pytest.raises(EgressRefusedError):
            await server(upstream.url)


async def test_plain_http_is_refused_where_the_operator_does_not_allow_it() -> None:
    with pytest.raises(EgressRefusedError, match="https"):
        await server("http://as.example", policy=AddressPolicy())


async def test_metadata_that_is_too_large_or_fails_is_an_error_and_not_an_absence() -> None:
    async with site(lambda url: {SERVER: Response(b"x" * 200_000), OIDC: server_metadata(url)}) as upstream:
        with pytest.raises(AuthorizationServerError, match="could not be read"):
            await server(upstream.url)
    async with site(lambda url: {SERVER: Response(status_code=503), OIDC: server_metadata(url)}) as upstream:
        with pytest.raises(AuthorizationServerError, match="could not be read"):
            await server(upstream.url)
    async with site(lambda _: {}) as upstream:
        with pytest.raises(AuthorizationServerError, match="publishes no metadata"):
            await server(upstream.url)


async def test_an_upstream_that_cannot_be_reached_is_one_error() -> None:
    async with egress() as out:
        with pytest.raises(AuthorizationServerError, match="could not be asked"):
            await Discovery(out, timeout_s=5.0).resource("http://127.0.0.1:9876/mcp")


async def test_an_upstream_that_asks_for_nothing_is_answered_by_its_metadata_alone() -> None:
    async with site(
        lambda url: {"/mcp": JSONResponse({}), RESOURCE: resource_metadata(url, "https://as.example")}
    ) as upstream:
        assert (await discovered(upstream)).scopes == ()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (['Bearer scope="a b a"'], Challenge(None, ("a", "b"))),
        (["Bearer"], Challenge()),
        (["Basic realm=x"], Challenge()),
        ([], Challenge()),
        (['bearer RESOURCE_METADATA="https://x/?a=1,b=2" , scope = c'], Challenge("https://x/?a=1,b=2", ("c",))),
        (['Basic realm="scope=\\"evil\\"", Bearer scope=a'], Challenge(None, ("a",))),
        (['Bearer scope="a", Basic realm="x"'], Challenge(None, ("a",))),
        (['Bearer x_scope="evil", scope="a"'], Challenge(None, ("a",))),
        (['Bearer realm="\\", scope=\\"evil", error=insufficient_scope'], Challenge(error="insufficient_scope")),
        (["Negotiate abc==", 'Bearer scope="a"'], Challenge(None, ("a",))),
        (['Bearer scope="unterminated'], Challenge()),
    ],
)
def test_challenges_are_read_as_the_grammar_says(headers: list[str], expected: Challenge) -> None:
    assert parse_challenge(headers) == expected


def test_a_step_up_asks_for_what_is_held_and_what_is_missing() -> None:
    assert union(("a", "b"), ("c", "a")) == ("a", "b", "c")

from __future__ import annotations

import asyncio
import gzip
import ssl
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest
from mcp.client.sse import sse_client

from agentapi.egress import AddressPolicy, Egress, Resolver
from agentapi.egress import client as egress_client
from agentapi.egress.client import default_tls_context
from agentapi.errors import AgentAPIError, EgressRefusedError, UpstreamError, UpstreamTimeoutError
from agentapi.settings import Settings
from unit.egress.doubles import FakeNames, FakeNetwork, TlsPair, serve

if TYPE_CHECKING:
    from unit.egress.doubles import Handler

LOOPBACK = AddressPolicy(allow_networks=(ip_network("127.0.0.0/8"),), allow_http=True)


def reply(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{extra}\r\n".encode() + body


def canned(*parts: bytes) -> Handler:
    async def handler(_path: str, _headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)

    return handler


def egress(policy: AddressPolicy = LOOPBACK, names: FakeNames | None = None, **options: Any) -> Egress:
    resolver = Resolver(names or FakeNames(upstream_example=["127.0.0.1"], other_example=["127.0.0.1"]))
    return Egress(policy, resolver=resolver, **options)


async def test_fetches_from_an_allowed_server_over_one_connection() -> None:
    async with serve(canned(reply(b'{"keys": []}'))) as server, egress() as out:
        url = f"http://upstream.example:{server.port}/jwks"
        assert await out.get_bytes(url, max_bytes=100) == b'{"keys": []}'
        assert await out.get_bytes(url, max_bytes=100) == b'{"keys": []}'
        line, headers = server.requests[0]
        assert line == "GET /jwks HTTP/1.1"
        assert headers["host"] == f"upstream.example:{server.port}"
        assert headers["accept-encoding"] == "identity"
        assert server.connections == 1


async def test_calls_to_upstreams_leave_sockets_for_key_sets() -> None:
    async def handler(path: str, _headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"") if path == "/keys" else b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")

    async with serve(handler) as server, egress(max_connections=1, timeout_s=2.0) as out:
        url = f"http://upstream.example:{server.port}"
        async with out.client(transport=out.to_upstreams) as client, client.stream("POST", f"{url}/mcp"):
            with pytest.raises(httpx2.PoolTimeout):
                await client.post(f"{url}/mcp", timeout=httpx2.Timeout(2.0, pool=0.01))
            assert await out.get_bytes(f"{url}/keys", max_bytes=100) == b""
            async with out.client() as other:
                assert (await other.get(f"{url}/keys")).is_success


async def test_what_comes_besides_an_answer_answers_no_other_request() -> None:
    """One byte too much and every later request on the connection, whoever makes it, had its predecessor's answer."""

    async def handler(path: str, _headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        writer.write(reply(path.encode()) + reply(b"stale"))

    async with serve(handler) as server, egress() as out:
        for path in (b"/first", b"/second"):
            url = f"http://upstream.example:{server.port}{path.decode()}"
            assert await out.get_bytes(url, max_bytes=100) == path
        assert server.connections == 2


async def test_a_connection_that_its_server_has_closed_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool would notice at its next use, and hold the socket until then."""
    monkeypatch.setattr(egress_client, "_REAP_S", 0.01)
    had, closed = asyncio.Event(), asyncio.Event()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply(b"ok"))
        await had.wait()
        writer.write_eof()
        # The end of what the client sends is that of its socket.
        assert await reader.read() == b""
        closed.set()
        writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    async with server, egress() as out:
        port = server.sockets[0].getsockname()[1]
        assert await out.get_bytes(f"http://upstream.example:{port}/", max_bytes=100) == b"ok"
        had.set()
        async with asyncio.timeout(5):
            await closed.wait()


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://[::ffff:127.0.0.1]/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://user:pw@example.com/",
        "http://example.com/",
        "https://inside.example/",
        "https://mixed.example/",
        "file:///etc/passwd",
    ],
)
async def test_attack_table_opens_no_socket(url: str) -> None:
    network = FakeNetwork({"8.8.8.8": [reply(b"ok")], "10.0.0.1": [reply(b"ok")], "127.0.0.1": [reply(b"ok")]})
    names = FakeNames(inside_example=["10.0.0.1"], mixed_example=["8.8.8.8", "127.0.0.1"], example_com=["8.8.8.8"])
    async with egress(AddressPolicy(), names, network=network) as out:
        with pytest.raises(EgressRefusedError):
            await out.get_bytes(url, max_bytes=10)
        with pytest.raises(EgressRefusedError):
            await out.check(url)
        async with out.client() as client:
            with pytest.raises((EgressRefusedError, httpx2.UnsupportedProtocol)):
                await client.get(url)
    assert network.connected == []


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://10.0.0.1/",
        "http://inside.example/",
        "http://0xa9fea9fe/",
        "http://user:pw@upstream.example/",
        "file:///etc/passwd",
        "gopher://upstream.example/",
    ],
)
async def test_a_redirect_is_checked_like_any_url(target: str) -> None:
    names = FakeNames(upstream_example=["127.0.0.1"], inside_example=["192.168.0.1"])
    async with serve(canned(reply(b"", "302 Found", location=target))) as server, egress(names=names) as out:
        with pytest.raises(AgentAPIError) as caught:
            await out.get_bytes(f"http://upstream.example:{server.port}/", max_bytes=10)
        assert isinstance(caught.value, EgressRefusedError) or "UnsupportedProtocol" in str(caught.value.log_context)
        assert len(server.requests) == 1


async def test_a_redirect_from_https_to_http_is_refused_even_where_http_is_allowed(tls: TlsPair) -> None:
    async with (
        serve(canned(reply(b"plain"))) as plain,
        serve(
            canned(reply(b"", "302 Found", location=f"http://upstream.example:{plain.port}/")),
            context=tls.server,
        ) as secure,
        egress(ssl_context=tls.client) as out,
    ):
        with pytest.raises(EgressRefusedError, match="not https"):
            await out.get_bytes(f"https://upstream.example:{secure.port}/", max_bytes=10)
        assert plain.requests == []


async def test_follows_three_redirects_and_not_four() -> None:
    async def countdown(path: str, _headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        left = int(path[1:])
        writer.write(reply(b"", "307 Temporary Redirect", location=f"/{left - 1}") if left else reply(b"there"))

    async with serve(countdown) as server, egress() as out:
        base = f"http://upstream.example:{server.port}"
        assert await out.get_bytes(f"{base}/3", max_bytes=10) == b"there"
        with pytest.raises(UpstreamError, match="redirects more than 3"):
            await out.get_bytes(f"{base}/4", max_bytes=10)


async def test_credentials_and_cookies_stay_with_their_origin() -> None:
    async def hop(path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        if path == "/":
            location = f"http://other.example:{headers['host'].rpartition(':')[2]}/end"
            writer.write(reply(b"", "302 Found", location=location, set_cookie="id=1; path=/"))
        else:
            writer.write(reply(b"end"))

    async with serve(hop) as server, egress() as out:
        url = f"http://upstream.example:{server.port}/"
        await out.get_bytes(url, max_bytes=10, headers={"Authorization": "Bearer x", "Accept": "a/b", "X-Key": "k"})
        (_, first), (_, second) = server.requests
        assert first["authorization"] == "Bearer x"
        assert first["x-key"] == "k"
        assert second["accept"] == "a/b"
        assert not {"authorization", "x-key", "cookie"} & set(second)
        await out.get_bytes(url, max_bytes=10)
        assert "cookie" not in server.requests[2][1]


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffff\r\n",
    ],
)
async def test_a_large_body_is_given_up_on_while_it_arrives(head: bytes) -> None:
    async with serve(canned(head, b"x" * 2000)) as server, egress() as out:
        with anyio.fail_after(5), pytest.raises(UpstreamError, match="larger than 1000 bytes"):
            await out.get_bytes(f"http://upstream.example:{server.port}/", max_bytes=1000)


async def test_a_body_of_exactly_the_bound_is_taken() -> None:
    async with serve(canned(reply(b"x" * 1000))) as server, egress() as out:
        assert len(await out.get_bytes(f"http://upstream.example:{server.port}/", max_bytes=1000)) == 1000


async def test_a_slow_body_is_bounded_by_the_whole_time() -> None:
    gate = asyncio.Event()

    async def drip(_path: str, _headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nx")
        await gate.wait()

    async with serve(drip) as server, egress() as out:
        with anyio.fail_after(5), pytest.raises(UpstreamTimeoutError):
            await out.get_bytes(f"http://upstream.example:{server.port}/", max_bytes=10, timeout_s=0.05)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
async def test_a_compressed_answer_is_refused_and_not_inflated(encoding: str) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    async with serve(canned(reply(bomb, content_encoding=encoding))) as server, egress() as out:
        url = f"http://upstream.example:{server.port}/"
        with pytest.raises(UpstreamError) as caught:
            await out.get_bytes(url, max_bytes=100_000)
        assert "compressed" in str(caught.value.log_context["reason"])
        async with out.client(headers={"Accept-Encoding": "gzip"}) as client:
            with pytest.raises(httpx2.RemoteProtocolError):
                await client.get(url)
        assert server.requests[1][1]["accept-encoding"] == "identity"


async def test_clients_bound_a_body_but_not_an_event_stream() -> None:
    async def answer(path: str, _headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"x" * 2000, content_type="text/event-stream; charset=utf-8" if path == "/sse" else "a/b"))

    async with serve(answer) as server, egress(max_response_bytes=1000) as out, out.client() as client:
        base = f"http://upstream.example:{server.port}"
        assert len((await client.get(f"{base}/sse")).content) == 2000
        with pytest.raises(httpx2.StreamError, match="larger than 1000"):
            await client.get(f"{base}/json")


@pytest.mark.parametrize("message_mb", [1, 3])
async def test_the_bound_on_a_body_is_that_on_a_message_of_an_upstream(message_mb: int) -> None:
    settings = Settings(
        egress_allow_networks=LOOPBACK.allow_networks, egress_allow_http=True, upstream_message_mb=message_mb
    )
    bound = message_mb * 1024 * 1024

    async def answer(path: str, _headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"x" * (bound + (path == "/more"))))

    async with serve(answer) as server, Egress.from_settings(settings) as out, out.client() as client:
        base = f"http://127.0.0.1:{server.port}"
        assert len((await client.get(f"{base}/as-much")).content) == bound
        with pytest.raises(httpx2.StreamError, match=f"larger than {bound}"):
            await client.get(f"{base}/more")


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops", "304 Not Modified"])
async def test_an_error_status_is_an_upstream_error(status: str) -> None:
    async with serve(canned(reply(b"", status))) as server, egress() as out:
        with pytest.raises(UpstreamError, match=status[:3]):
            await out.get_bytes(f"http://upstream.example:{server.port}/", max_bytes=10)


@pytest.mark.parametrize("raw", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort"])
async def test_a_broken_server_is_an_upstream_error(raw: bytes) -> None:
    async def answer(_path: str, _headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        writer.close()

    async with serve(answer) as server, egress() as out:
        with anyio.fail_after(5), pytest.raises(UpstreamError, match="could not be reached"):
            await out.get_bytes(f"http://upstream.example:{server.port}/", max_bytes=100)


async def test_closing_a_client_leaves_the_pool_open() -> None:
    async with serve(canned(reply(b"ok"))) as server, egress() as out:
        url = f"http://upstream.example:{server.port}/"
        for _ in range(3):
            async with out.client() as client:
                assert (await client.get(url)).text == "ok"
        for _ in range(3):
            client = out.client()
            await client.get(url)
            await client.aclose()
        assert server.connections == 1


async def test_clients_do_not_share_cookies_and_do_not_follow_redirects() -> None:
    async with (
        serve(canned(reply(b"", "302 Found", location="/x", set_cookie="id=1; path=/"))) as server,
        egress() as out,
    ):
        url = f"http://upstream.example:{server.port}/"
        async with out.client(headers={"X-A": "1"}) as client:
            assert (await client.get(url)).status_code == 302
        async with out.client() as client:
            await client.get(url)
        assert server.requests[0][1]["x-a"] == "1"
        assert not {"cookie", "x-a"} & set(server.requests[1][1])


async def test_a_client_that_follows_redirects_is_still_guarded() -> None:
    target = "http://169.254.169.254/latest/"
    async with (
        serve(canned(reply(b"", "302 Found", location=target))) as server,
        egress() as out,
        out.client() as client,
    ):
        with pytest.raises(EgressRefusedError):
            await client.get(f"http://upstream.example:{server.port}/", follow_redirects=True)


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with serve(canned(reply(b"direct"))) as server, egress() as out:
        url = f"http://upstream.example:{server.port}/"
        assert await out.get_bytes(url, max_bytes=10) == b"direct"
        async with out.client() as client:
            assert (await client.get(url)).text == "direct"


async def test_tls_verifies_the_name_though_the_socket_goes_to_an_address(tls: TlsPair) -> None:
    seen: list[str | None] = []
    tls.server.sni_callback = lambda _socket, name, _context: seen.append(name)
    async with (
        serve(canned(reply(b"secure")), context=tls.server) as server,
        egress(AddressPolicy(LOOPBACK.allow_networks), ssl_context=tls.client) as out,
    ):
        url = f"https://upstream.example:{server.port}/"
        assert await out.get_bytes(url, max_bytes=10) == b"secure"
        assert seen == ["upstream.example"]
        for stranger in ("other.example", "127.0.0.1"):
            with pytest.raises(UpstreamError) as caught:
                await out.get_bytes(f"https://{stranger}:{server.port}/", max_bytes=10)
            assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value.log_context["reason"])
    tls.server.sni_callback = None
    assert len(server.requests) == 1


async def test_an_unknown_authority_is_refused(tls: TlsPair) -> None:
    async with serve(canned(reply(b"x")), context=tls.server) as server, egress() as out:
        with pytest.raises(UpstreamError) as caught:
            await out.get_bytes(f"https://upstream.example:{server.port}/", max_bytes=10)
    assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value.log_context["reason"])


def test_the_default_tls_context_verifies() -> None:
    context = default_tls_context()
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


async def test_serves_the_sdk_as_its_client_factory() -> None:
    endpoint = b"event: endpoint\r\ndata: /messages?session_id=abc\r\n\r\n"

    async def answer(_path: str, _headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + endpoint)

    sessions: list[str] = []
    async with serve(answer) as server, egress() as out:
        with anyio.fail_after(10):
            async with sse_client(
                f"http://upstream.example:{server.port}/sse",
                headers={"Authorization": "Bearer x"},
                httpx_client_factory=out.client,
                on_session_created=sessions.append,
            ):
                assert server.requests[0][1]["authorization"] == "Bearer x"
    assert sessions == ["abc"]


async def test_is_built_from_the_settings() -> None:
    settings = Settings(egress_allow_networks=(ip_network("127.0.0.0/8"),), egress_allow_http=True)
    async with (
        serve(canned(reply(b"[1]"))) as server,
        Egress.from_settings(settings) as out,
    ):
        assert await out.get_bytes(f"http://127.0.0.1:{server.port}/", max_bytes=10) == b"[1]"

"""Hostile input to the MCP endpoint: each row is refused as it should be, and the endpoint serves on."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from support.gateway import Gateway
from support.hostile import RAW_ROWS, ROWS, RawRow, Row, Target, is_alive
from support.raw import modern_call, modern_headers, modern_message, post
from support.upstreams import sdk_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

HEAD_TIMEOUT_S = 2.0


@pytest.fixture(scope="module")
def sdk(module_directory: Path) -> Iterator[Target]:
    with sdk_server("http", module_directory / "sdk.log") as upstream:
        yield Target(upstream.url, None, "echo")


@pytest.fixture(scope="module")
def gateway(sdk: Target, module_directory: Path) -> Iterator[Gateway]:
    config = module_directory / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"sdk": {"type": "http", "url": sdk.url}}}))
    more = {"AGENTAPI_HEAD_TIMEOUT_S": str(HEAD_TIMEOUT_S)}
    with Gateway.start("--mcp-config", str(config), data_dir=module_directory / "data", env=more) as running:
        yield running


@pytest.fixture(scope="module")
def target(gateway: Gateway) -> Target:
    return Target(gateway.mcp_url, gateway.token, "sdk__echo")


def _check(row: Row, answer: httpx2.Response) -> None:
    assert answer.status_code in row.status, (answer.status_code, answer.text[:500])
    if row.codes is None and row.identifier is ...:
        return
    body = answer.json()
    assert body["jsonrpc"] == "2.0"
    assert set(body) == {"jsonrpc", "id", "error"}
    assert row.codes is None or body["error"]["code"] in row.codes, body["error"]
    assert len(body["error"]["message"]) < 1000
    if row.identifier is not ...:
        assert body["id"] == row.identifier


@pytest.mark.parametrize("row", [row for row in ROWS if row.sdk], ids=lambda row: row.name)
def test_the_table_holds_for_the_sdks_own_server(sdk: Target, row: Row) -> None:
    _check(row, row.send(sdk))
    is_alive(sdk)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_is_refused_and_the_gateway_serves_on(target: Target, row: Row) -> None:
    _check(row, row.send(target))
    is_alive(target)


@pytest.mark.parametrize("row", RAW_ROWS, ids=lambda row: row.name)
def test_what_is_hardly_http_is_refused(target: Target, row: RawRow) -> None:
    received = row.send(target)
    if received:
        assert received.startswith(b"HTTP/1."), received[:200]
        assert int(received.split(b" ", 2)[1]) in row.statuses, received[:500]
    is_alive(target)


MEBIBYTE = 1024 * 1024


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        ("POST /mcp HTTP/1.1\r\nHost: x\r\nX-Big: ", b"a" * MEBIBYTE),
        ("POST /mcp HTTP/1.1\r\nHost: x\r\n", b"x-a: b\r\n" * (MEBIBYTE // 8)),
        ("GET /", b"a" * MEBIBYTE),
        ("POST /mcp HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"x-a: b\r\n" * (MEBIBYTE // 8)),
    ],
    ids=["one field", "many fields", "request line", "fields behind the body"],
)
def test_a_head_without_end_takes_neither_memory_nor_the_connection(
    gateway: Gateway, target: Target, begin: str, piece: bytes
) -> None:
    before = _resident(gateway.process.pid)
    parts = urlsplit(target.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10) as stranger:
        stranger.sendall(begin.encode())
        received, taken = b"", False
        # What a stranger is told is lost with what it goes on sending.
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                stranger.sendall(piece)
            taken = True
        with contextlib.suppress(ConnectionError):
            received = stranger.recv(4096)
    assert not taken
    assert not received or received.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 401 ", b"HTTP/1.1 404 ")), received
    assert _resident(gateway.process.pid) - before < 16 * MEBIBYTE
    is_alive(target)


def _resident(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("over", [False, True])
def test_a_head_just_over_its_measure_is_told_so(target: Target, over: bool) -> None:
    answer = target.send(target.call(), x_long="a" * (65_536 if over else 60_000))
    assert answer.status_code == (431 if over else 200)


@pytest.mark.parametrize("begin", [b"", b"POST /mcp HTTP/1.1\r\nHost: x\r\n"], ids=["silence", "half a head"])
def test_a_head_that_does_not_come_to_its_end_is_given_up_in_time(target: Target, begin: bytes) -> None:
    parts = urlsplit(target.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10) as stranger:
        began = time.monotonic()
        stranger.sendall(begin)
        received = b""
        while got := stranger.recv(4096):
            received += got
    assert received.startswith(b"HTTP/1.1 408 ") if begin else not received
    assert HEAD_TIMEOUT_S * 0.9 < time.monotonic() - began < HEAD_TIMEOUT_S + 3
    is_alive(target)


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.status <= {400, 404, 406, 413, 415}], ids=lambda row: row.name
)
def test_without_a_token_every_body_looks_the_same(target: Target, row: Row) -> None:
    """The token is asked for first: a stranger learns nothing of how a body would be judged.

    An overlong header or body, or an Origin, may be refused before.
    """
    answer = row.send(Target(target.url, None, target.echo))
    assert answer.status_code in {401, 405, 413, 431}, answer.text
    if answer.status_code == 401:
        assert "resource_metadata=" in answer.headers["www-authenticate"]


def test_unsupported_version_names_those_that_are_supported(target: Target) -> None:
    message = modern_message("tools/list")
    message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2099-01-01"
    headers = {**modern_headers(message), "mcp-protocol-version": "2099-01-01"}
    data = post(target.url, target.token, message, headers=headers).json()["error"]["data"]
    assert data["requested"] == "2099-01-01"
    assert "2026-07-28" in data["supported"]


@pytest.mark.parametrize("identifier", [0, -1, 2**53 + 1, "", "ü\u2028", "a" * 1000])
def test_odd_identifiers_come_back_unchanged(target: Target, identifier: int | str) -> None:
    message = modern_message("tools/list", identifier=identifier)
    answer = post(target.url, target.token, message, headers=modern_headers(message)).json()
    assert answer["id"] == identifier
    assert type(answer["id"]) is type(identifier)


def test_nested_arguments_within_reason_arrive_whole(target: Target) -> None:
    value: object = "deep"
    for _ in range(40):
        value = [value]
    params = {"name": target.echo, "arguments": {"message": "x", "extra": value}}
    assert modern_call(target.url, target.token, "tools/call", params).status_code == 200


def test_no_row_left_a_traceback_in_the_log(gateway: Gateway) -> None:
    """Last in the module, so that the log covers everything above."""
    assert gateway.tracebacks == []
    assert gateway.token not in gateway.stderr

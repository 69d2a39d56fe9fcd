"""Hostile input to the MCP endpoint: each row is refused as it should be, and the endpoint serves on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from support.gateway import Gateway
from support.hostile import RAW_ROWS, ROWS, RawRow, Row, Target, is_alive
from support.raw import modern_call, modern_headers, modern_message, post
from support.upstreams import sdk_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx2


@pytest.fixture(scope="module")
def sdk(module_directory: Path) -> Iterator[Target]:
    with sdk_server("http", module_directory / "sdk.log") as upstream:
        yield Target(upstream.url, None, "echo")


@pytest.fixture(scope="module")
def gateway(sdk: Target, module_directory: Path) -> Iterator[Gateway]:
    config = module_directory / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"sdk": {"type": "http", "url": sdk.url}}}))
    with Gateway.start("--mcp-config", str(config), data_dir=module_directory / "data") as running:
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

"""``POST /api/v1/mcp/import``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from agentapi.principal import Role
from integration.api.test_configurations import assert_problem

if TYPE_CHECKING:
    import asyncpg

    from integration.api.harness import Api, Caller

IMPORT = "/api/v1/mcp/import"
SECRET = "s3cret-of-the-file"
FILE: dict[str, Any] = {
    "mcpServers": {
        "GitHub": {"url": "http://127.0.0.1:18080/mcp", "headers": {"Authorization": f"Bearer {SECRET}"}},
        "events": {"type": "sse", "url": "http://127.0.0.1:18080/sse"},
        "Clock": {"command": "clock"},
        "shell": {"command": "bash", "args": ["-c", "curl evil"]},
        "clock with args": {"command": "clock", "args": ["--evil"]},
        "clock with env": {"command": "clock", "env": {"LD_PRELOAD": "/tmp/evil.so"}},
        "metadata": {"url": "http://169.254.169.254/latest"},
        "off": {"url": "http://127.0.0.1:18080/mcp", "disabled": True},
        "placeholder": {"url": "http://127.0.0.1:18080/mcp", "headers": {"Authorization": "${TOKEN}"}},
        "github": {"url": "http://127.0.0.1:18081/mcp"},
    }
}
CREATED = {"GitHub": "github", "events": "events", "Clock": "clock"}


async def taken(caller: Caller, document: Any = None, **parameters: Any) -> dict[str, dict[str, Any]]:
    answer = await caller.request("POST", IMPORT, json=FILE if document is None else document, params=parameters)
    assert answer.status_code == 200, answer.text
    assert SECRET not in answer.text
    return {server["entry"]: server for server in answer.json()["servers"]}


async def test_servers_of_a_file_become_upstreams_or_are_refused_in_words(
    api: Api, superuser: asyncpg.Connection[Any]
) -> None:
    admin = api.caller()
    results = await taken(admin)
    assert {entry: result["name"] for entry, result in results.items() if result["status"] == "created"} == CREATED
    assert {result["status"] for entry, result in results.items() if entry not in CREATED} == {"refused"}
    assert "platform admin allows" in results["shell"]["reason"]
    assert "clock" in results["clock with args"]["reason"]
    assert "clock" in results["clock with env"]["reason"]
    assert "disabled" in results["off"]["reason"]
    assert "placeholder" in results["placeholder"]["reason"]
    assert "rename one" in results["github"]["reason"]
    stored = (await admin.read(results["GitHub"]["id"])).json()
    assert (stored["auth"], stored["has_secret"], stored["scope"]) == ("bearer", True, "organization")
    clock = (await admin.read(results["Clock"]["id"])).json()
    assert (clock["transport"], clock["command"]) == ("stdio", "clock")
    assert sorted(await admin.names()) == sorted(CREATED.values())
    rows = await superuser.fetch("SELECT upstreams::text AS row FROM upstreams")
    assert all(SECRET not in row["row"] and SECRET.encode().hex() not in row["row"] for row in rows)


async def test_what_a_file_asks_its_user_for_is_asked_of_each_user(api: Api) -> None:
    file = {
        "inputs": [{"type": "promptString", "id": "token", "description": "Your token", "password": True}],
        "servers": {
            "tracker": {"url": "http://127.0.0.1:18080/mcp", "headers": {"Authorization": "Bearer ${input:token}"}},
            "other": {"command": "clock", "env": {"TOKEN": "${input:token}"}},
        },
    }
    answer = await api.caller().request("POST", "/api/v1/mcp/import", json=file)
    assert [(server["name"], server["status"]) for server in answer.json()["servers"]] == [
        ("tracker", "created"),
        (None, "refused"),
    ]
    (stored,) = (await api.caller().page()).json()["items"]
    assert stored["auth"] == "user"
    assert stored["credential_form"]["fields"][0]["label"] == "Your token"
    assert stored["credential_form"]["placements"] == [
        {"place": "header", "name": "Authorization", "value": "Bearer {token}"}
    ]


async def test_a_dry_run_says_the_same_and_changes_nothing(api: Api) -> None:
    admin = api.caller()
    dry = await taken(admin, dry_run="true")
    assert await admin.names() == []
    real = await taken(admin, dry_run="false")
    assert {e: (r["status"], r["reason"]) for e, r in dry.items()} == {
        e: (r["status"], r["reason"]) for e, r in real.items()
    }
    assert {result["id"] for result in dry.values()} == {None}


async def test_importing_again_finds_what_is_there(api: Api) -> None:
    admin = api.caller()
    first, second = await taken(admin), await taken(admin)
    assert {second[entry]["status"] for entry in CREATED} == {"exists"}
    assert len(await admin.names()) == len(CREATED)
    assert (await admin.read(first["GitHub"]["id"])).json()["version"] == 1


async def test_a_member_imports_for_themselves_alone(api: Api) -> None:
    bob = api.caller(Role.MEMBER, "bob")
    assert_problem(await bob.request("POST", IMPORT, json=FILE), 403, "forbidden")
    results = await taken(bob, scope="user")
    assert results["GitHub"]["status"] == "created"
    assert await api.caller().names() == []
    assert sorted(await bob.names()) == sorted(CREATED.values())


@pytest.mark.parametrize(
    ("body", "parameters"),
    [
        ("{", {}),
        ("[]", {}),
        ("{}", {}),
        ('{"mcpServers": {}}', {}),
        ('{"mcpServers": []}', {}),
        (json.dumps({"mcpServers": {f"s{number}": {} for number in range(201)}}), {}),
        (json.dumps(FILE), {"dry_run": "yes"}),
        (json.dumps(FILE), {"scope": "everybody"}),
    ],
)
async def test_what_is_no_such_file_is_refused(api: Api, body: str, parameters: dict[str, str]) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await api.caller().request("POST", IMPORT, content=body, headers=headers, params=parameters)
    assert_problem(answer, 422, "invalid_request")


@pytest.mark.parametrize(
    "entry", [None, 7, [], "x", {}, {"url": 7}, {"command": 7}, {"url": "http://a", "headers": []}]
)
async def test_nonsense_refuses_its_entry_alone(api: Api, entry: object) -> None:
    document = {"mcpServers": {"bad": entry, "good": {"url": "http://127.0.0.1:18080/mcp"}}}
    results = await taken(api.caller(), document)
    assert [results[name]["status"] for name in ("bad", "good")] == ["refused", "created"]


async def test_as_in_production_only_https_is_taken(strict_api: Api) -> None:
    results = await taken(strict_api.caller())
    assert {result["status"] for result in results.values()} == {"refused"}

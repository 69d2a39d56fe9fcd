"""Each change that is made through the API has a row, committed with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.api.test_policy import POLICY, TOOLSETS

if TYPE_CHECKING:
    from integration.api.harness import Api


async def test_changes_of_upstreams_policies_and_toolsets_are_recorded(api: Api) -> None:
    admin = api.caller()
    upstream = await admin.created(name="one", endpoint="http://127.0.0.1:18080/mcp?key=not-for-the-log")
    assert (await admin.create(name="one")).status_code == 409
    await admin.replace(upstream["id"], name="two")
    await admin.delete(upstream["id"])
    put = await admin.request("PUT", POLICY, json={"default": "allow"})
    assert put.status_code == 200, put.text
    toolset = await admin.request("POST", TOOLSETS, json={"name": "few", "tools": ["*"]})
    assert toolset.status_code == 201, toolset.text
    await admin.request("DELETE", f"{TOOLSETS}/{toolset.json()['id']}")
    answer = await admin.request("GET", "/api/v1/audit")
    items = answer.json()["items"][::-1]
    assert [item["action"] for item in items] == [
        "upstream.created",
        "upstream.updated",
        "upstream.deleted",
        "policy.updated",
        "toolset.created",
        "toolset.deleted",
    ]
    assert {item["outcome"] for item in items} == {"success"}
    assert items[0]["resource"] == f"upstream:{upstream['id']}"
    assert items[0]["details"]["host"] == "127.0.0.1"
    assert [item["sequence"] for item in items] == list(range(items[0]["sequence"], items[0]["sequence"] + 6))
    assert "not-for-the-log" not in answer.text

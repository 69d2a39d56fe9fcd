from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentapi.gateway.rewrite import Rewriter, map_notification, map_question, map_result

ONE = Rewriter("one", bare=False)
URI = st.text(min_size=1, max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NO_URI = JSON.filter(lambda value: value != "")
"""Whatever else stands where a URI should; the empty text is none, and would be read back as no public one."""
HOLDER = st.fixed_dictionaries({"uri": URI | NO_URI}, optional={"text": st.text(max_size=5), "_meta": JSON})
BLOCK = st.one_of(
    JSON,
    st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=5)}, optional={"uri": URI}),
    st.fixed_dictionaries({"type": st.just("resource_link"), "uri": URI | NO_URI}, optional={"name": JSON}),
    st.fixed_dictionaries({"type": st.just("resource"), "resource": HOLDER | JSON}),
)
CONTENT = BLOCK | st.lists(BLOCK | st.fixed_dictionaries({"type": st.just("tool_result"), "content": st.lists(BLOCK)}))
MESSAGES = st.lists(JSON | st.fixed_dictionaries({"role": st.just("user"), "content": CONTENT})) | JSON
QUESTION = st.fixed_dictionaries(
    {"method": st.sampled_from(["sampling/createMessage", "roots/list"]), "params": st.just({}) | JSON},
) | st.fixed_dictionaries(
    {"method": st.just("sampling/createMessage"), "params": st.fixed_dictionaries({"messages": MESSAGES})}
)
METHOD = st.sampled_from(["tools/call", "prompts/get", "resources/read", "completion/complete"])
RESULT = st.fixed_dictionaries(
    {},
    optional={
        "content": CONTENT,
        "messages": MESSAGES,
        "contents": st.lists(HOLDER | JSON) | JSON,
        "structuredContent": JSON,
        "inputRequests": st.dictionaries(st.text(max_size=3), QUESTION | JSON, max_size=3) | JSON,
        "unknown": JSON,
    },
)


@given(method=METHOD, result=RESULT)
def test_there_and_back_is_where_one_was(method: str, result: dict[str, Any]) -> None:
    before = copy.deepcopy(result)
    there = ONE.result(method, result)
    assert result == before
    assert map_result(method, there, ONE.own_uri) == result


@given(method=METHOD, result=RESULT)
def test_a_bare_workspace_changes_nothing(method: str, result: dict[str, Any]) -> None:
    assert Rewriter("one", bare=True).result(method, result) is result


@given(messages=MESSAGES, uri=URI)
def test_questions_and_notifications_come_back_too(messages: Any, uri: str) -> None:
    method = "sampling/createMessage"
    asked = {"messages": messages, "maxTokens": 5}
    assert map_question(method, ONE.question(method, asked), ONE.own_uri) == asked
    told = {"uri": uri, "title": "x"}
    method = "notifications/resources/updated"
    assert map_notification(method, ONE.notification(method, told), ONE.own_uri) == told


def test_what_is_a_uri_of_a_resource_is_public_and_nothing_else() -> None:
    link = {"type": "resource_link", "uri": "test://a", "name": "a"}
    embedded = {"type": "resource", "resource": {"uri": "test://b", "text": "test://b"}}
    other = {"type": "text", "text": "test://c", "uri": "test://c"}
    public = [
        {**link, "uri": "mcp+one+test://a"},
        {"type": "resource", "resource": {"uri": "mcp+one+test://b", "text": "test://b"}},
        other,
    ]
    called = {"content": [link, embedded, other], "structuredContent": {"uri": "test://d"}, "isError": False}
    assert ONE.result("tools/call", called) == {**called, "content": public}
    got = {"messages": [{"role": "user", "content": link}, {"role": "user", "content": [embedded]}]}
    assert ONE.result("prompts/get", got) == {
        "messages": [{"role": "user", "content": public[0]}, {"role": "user", "content": [public[1]]}]
    }
    read = {"contents": [{"uri": "test://a", "blob": ""}], "ttlMs": 1}
    assert ONE.result("resources/read", read) == {"contents": [{"uri": "mcp+one+test://a", "blob": ""}], "ttlMs": 1}
    asked = {"method": "sampling/createMessage", "params": {"messages": [{"role": "user", "content": link}]}}
    round_ = {"resultType": "input_required", "inputRequests": {"k": asked}, "requestState": "s"}
    rewritten = ONE.result("tools/call", round_)["inputRequests"]["k"]["params"]["messages"]
    assert rewritten == [{"role": "user", "content": public[0]}]


def test_the_uri_of_another_upstream_is_left_alone() -> None:
    assert ONE.own_uri("mcp+two+test://a") == "mcp+two+test://a"
    assert ONE.own_uri("mcp+one+test://a") == "test://a"

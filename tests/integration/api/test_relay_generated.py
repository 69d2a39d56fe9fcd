"""Generated calls and generated answers: the relay and the session path tell client and upstream the same.

Everything that differs by design is in one table, ``BY_DESIGN``, with its reason. The examples are the same in every
run; take ``derandomize`` out to look further.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from mcp.shared.inbound import encode_header_value

from agentapi.gateway.relay import ByteRelay
from agentapi.principal import Role
from agentapi.upstreams.breakers import UNGUARDED, UpstreamBreakers
from agentapi.upstreams.retries import Retries
from integration.api.generated_answers import PLANS, Plan
from integration.api.generated_calls import CALLS, LISTS, Call
from support.raw_upstream import json_answer, serve_raw

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable

    from integration.api.harness import Api, Caller
    from support.raw_upstream import Request

EXAMPLES: Final = 2500
DISCOVERED: Final = {
    "supportedVersions": ["2026-07-28"],
    "capabilities": {"tools": {}, "prompts": {}, "resources": {}},
    "serverInfo": {"name": "raw", "version": "1"},
}
RETRIED: Final = Plan(
    "200 OK", "application/json", b'{"jsonrpc":"2.0","id":"@ID@","result":{"resultType":"complete"}}', "length"
)
CLIENT_INFO: Final = "io.modelcontextprotocol/clientInfo"


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as the upstream got it."""

    message: dict[str, Any]
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call on both ends."""

    status: int
    headers: dict[str, str]
    messages: list[Any]
    sent: list[Sent]

    @property
    def result(self) -> dict[str, Any]:
        """The result that the client got, empty if it got none."""
        result = self.messages[-1].get("result") if self.messages else None
        return result if isinstance(result, dict) else {}

    @property
    def error(self) -> dict[str, Any]:
        """The error that the client got, empty if it got none."""
        error = self.messages[-1].get("error") if self.messages else None
        return error if isinstance(error, dict) else {}

    @property
    def state(self) -> str | None:
        """What the client is to send when it asks again."""
        state = self.result.get("requestState")
        return state if self.result.get("resultType") == "input_required" and isinstance(state, str) else None

    @property
    def is_failure(self) -> bool:
        """Whether the gateway says that the upstream gave no answer."""
        data = self.error.get("data")
        return isinstance(data, dict) and data.get("code") == "upstream_unavailable" and "upstreamCode" not in data

    def canonical(self) -> str:
        """Return all of it as text that two equal outcomes share; 1, 1.0 and true are three things."""
        sent = [[each.message, each.headers] for each in self.sent]
        return json.dumps([self.status, self.headers, self.messages, sent], sort_keys=True, ensure_ascii=False)


# By design.


def _without_ids(_: Call, outcome: Outcome) -> Outcome:
    return _sent_as(outcome, lambda message: {name: value for name, value in message.items() if name != "id"})


def _without_tokens(_: Call, outcome: Outcome) -> Outcome:
    def changed(message: dict[str, Any]) -> dict[str, Any]:
        meta = dict(message["params"]["_meta"])
        if meta.pop("progressToken", None) is not None:
            meta["progressToken"] = "one"
        return {**message, "params": {**message["params"], "_meta": meta}}

    return _sent_as(outcome, changed)


def _without_unknown_members(_: Call, outcome: Outcome) -> Outcome:
    known = {"jsonrpc", "method", "params", "result", "error", "id"}

    def changed(message: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in message.items() if name in known}

    return replace(_sent_as(outcome, changed), messages=[changed(each) for each in outcome.messages])


def _without_introduction(call: Call, outcome: Outcome) -> Outcome:
    if not outcome.sent or CLIENT_INFO in json.loads(call.body)["params"]["_meta"]:
        return outcome

    def changed(message: dict[str, Any]) -> dict[str, Any]:
        meta = {name: value for name, value in message["params"]["_meta"].items() if name != CLIENT_INFO}
        return {**message, "params": {**message["params"], "_meta": meta}}

    return _sent_as(outcome, changed)


def _without_headers(*names: str) -> Callable[[Call, Outcome], Outcome]:
    def changed(_: Call, outcome: Outcome) -> Outcome:
        sent = [
            replace(each, headers={name: value for name, value in each.headers.items() if name not in names})
            for each in outcome.sent
        ]
        return replace(outcome, sent=sent)

    return changed


def _without_own_cookie(_: Call, outcome: Outcome) -> Outcome:
    sent = [
        replace(
            each, headers={name: value for name, value in each.headers.items() if (name, value) != ("cookie", "a=b")}
        )
        for each in outcome.sent
    ]
    return replace(outcome, sent=sent)


def _one_word_for_a_broken_connection(_: Call, outcome: Outcome) -> Outcome:
    if not outcome.is_failure:
        return outcome
    words = r"(closed the connection|broke off its answer|failed: the connection broke)\.$"
    message = re.sub(words, "broke the connection.", outcome.error["message"])
    return replace(outcome, messages=[{**outcome.messages[-1], "error": {**outcome.error, "message": message}}])


def _nothing_before_a_failure(_: Call, outcome: Outcome) -> Outcome:
    if not outcome.is_failure:
        return outcome
    return replace(outcome, messages=outcome.messages[-1:], headers={})


def _reads_once(call: Call, outcome: Outcome) -> Outcome:
    is_read = call.method != "tools/call" or call.name == "look"
    return replace(outcome, sent=outcome.sent[:1]) if is_read and outcome.is_failure else outcome


def _unsealed(_: Call, outcome: Outcome) -> Outcome:
    # What is sealed in it shows in the retry.
    if outcome.state is None:
        return outcome
    result = {**outcome.result, "requestState": "sealed"}
    return replace(outcome, messages=[*outcome.messages[:-1], {**outcome.messages[-1], "result": result}])


def _sent_as(outcome: Outcome, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Outcome:
    return replace(outcome, sent=[replace(each, message=change(each.message)) for each in outcome.sent])


BY_DESIGN: Final[tuple[tuple[str, Callable[[Call, Outcome], Outcome]], ...]] = (
    ("On a connection of many requests each has an id of the gateway's; the relay sends the client's.", _without_ids),
    ("So it is with tokens of progress. The notices of it come under the client's in both.", _without_tokens),
    (
        "The session path writes messages anew, with the members of JSON-RPC. No revision has others.",
        _without_unknown_members,
    ),
    ("The session path introduces the gateway where a client does not say who it is.", _without_introduction),
    (
        "Headers of tracing pass the relay alone: on the session path ``_meta`` carries the context.",
        _without_headers("traceparent", "tracestate", "baggage"),
    ),
    (
        "Each HTTP client has headers of the hop of its own.",
        _without_headers("accept-encoding", "connection", "content-length", "user-agent"),
    ),
    (
        "A connection of the session path keeps the upstream's cookies, which balancers of older servers need.",
        _without_own_cookie,
    ),
    ("The relay streams what comes before an answer; that the answer is none shows later.", _nothing_before_a_failure),
    ("The SDK does not tell where a connection ended.", _one_word_for_a_broken_connection),
    (
        "The session path repeats a read whose connection broke; the relay only on a connection that lay idle.",
        _reads_once,
    ),
    ("A state is sealed under another nonce each time.", _unsealed),
)
"""What differs, why, and the form in which it is the same."""


@dataclass
class Stage:
    """A gateway in front of an upstream that answers as planned."""

    caller: Caller
    path: str
    plan: Plan = RETRIED
    relays: bool = True
    relayed: int = 0
    requests: list[Request] = field(default_factory=list)
    tally: Counter[str] = field(default_factory=Counter)

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Be the upstream."""
        message = request.message
        method, identifier = message["method"], message["id"]
        if method == "server/discover" or method in LISTS:
            told = DISCOVERED if method == "server/discover" else dict([LISTS[method]])
            result = {"resultType": "complete", "ttlMs": 3_600_000, "cacheScope": "private", **told}
            writer.write(json_answer({"jsonrpc": "2.0", "id": identifier, "result": result}))
            return
        self.requests.append(request)
        data, ends = self.plan.bytes_for(request)
        writer.write(data)
        if ends:
            writer.close()

    async def ask(self, call: Call, plan: Plan, *, relays: bool) -> Outcome:
        """Send ``call`` down one path and return what comes of it."""
        self.plan, self.relays, self.requests, before = plan, relays, [], self.relayed
        headers = {
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": call.method,
            "mcp-name": encode_header_value(call.public_name),
            **dict(call.headers),
        }
        answer = await self.caller.request("POST", self.path, content=call.public_body, headers=headers)
        by_relay = self.relayed - before
        assert by_relay <= int(relays), "the relay was taken"
        assert by_relay or not (relays and self.requests), "the relay was not taken"
        is_stream = answer.headers.get("content-type") == "text/event-stream"
        lines = [line.removeprefix("data: ") for line in answer.text.split("\n") if line.startswith("data: ")]
        told = [json.loads(line) for line in lines] if is_stream else [answer.json()]
        ignored = {"content-length", "x-request-id"}
        kept = {name: value for name, value in answer.headers.items() if name not in ignored}
        sent = [
            Sent(request.message, {name.lower(): value for name, value in request.headers}) for request in self.requests
        ]
        return Outcome(answer.status_code, kept, told, sent)

    async def compare(self, call: Call, plan: Plan) -> tuple[Outcome, Outcome]:
        """Send ``call`` down both paths; what comes of it must be the same but for what is so by design."""
        relayed = await self.ask(call, plan, relays=True)
        others = await self.ask(call, plan, relays=False)
        one, other = relayed, others
        for _, change in BY_DESIGN:
            one, other = change(call, one), change(call, other)
        assert one.canonical() == other.canonical()
        return relayed, others


@pytest.fixture
async def stage(api: Api, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    """An organisation with two upstreams, so that names and addresses are rewritten."""
    caller = api.caller(Role.ORG_ADMIN)
    stage = Stage(caller, f"/mcp/{api.tenant.principal.org_slug}/main")
    serves, forward = ByteRelay.serves, ByteRelay.forward

    async def counted(*arguments: Any) -> None:
        stage.relayed += 1
        await forward(*arguments)

    monkeypatch.setattr(ByteRelay, "serves", lambda relay, target: stage.relays and serves(relay, target))
    monkeypatch.setattr(ByteRelay, "forward", counted)
    # An upstream that answers whatever is generated would be left alone, and asked again.
    monkeypatch.setattr(UpstreamBreakers, "guard", lambda *_: UNGUARDED)
    monkeypatch.setattr(Retries, "spend", lambda *_: False)
    async with serve_raw(stage.answer) as upstream:
        for name in ("one", "two"):
            # Its era is given, or each answer that no modern server gives would have the gateway ask for it anew.
            await caller.created(name=name, endpoint=upstream.url, protocol="modern")
        yield stage
    if stage.tally["compared"] < EXAMPLES:
        # What failed has been told.
        return
    # Most calls get as far as the upstream, and a good part of the answers as far as the client.
    assert stage.tally["sent"] > EXAMPLES // 2, stage.tally
    assert stage.tally["result"] > EXAMPLES // 10, stage.tally
    assert stage.tally["upstream's error"] > EXAMPLES // 20, stage.tally
    assert stage.tally["retried"] > EXAMPLES // 200, stage.tally


@pytest.mark.timeout(300)
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(call=CALLS, plan=PLANS)
async def test_generated_calls_and_answers_are_told_alike(stage: Stage, call: Call, plan: Plan) -> None:
    relayed, others = await stage.compare(call, plan)
    stage.tally["compared"] += 1
    stage.tally["sent"] += bool(relayed.sent)
    stage.tally["result"] += bool(relayed.result)
    stage.tally["upstream's error"] += bool(relayed.sent and relayed.error and not relayed.is_failure)
    if relayed.state is not None and others.state is not None:
        stage.tally["retried"] += 1
        one = await stage.ask(call.retried(relayed.state), RETRIED, relays=True)
        other = await stage.ask(call.retried(others.state), RETRIED, relays=False)
        assert one.sent[0].message["params"]["requestState"] == other.sent[0].message["params"]["requestState"]
        assert one.result == other.result

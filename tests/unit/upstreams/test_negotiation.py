from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from mcp import MCPError

from agentapi.errors import UpstreamError
from agentapi.upstreams.failures import HttpRefusalError, ProbeBrokeError
from agentapi.upstreams.link import Era, Profile
from agentapi.upstreams.negotiation import negotiate

MODERN = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "instructions": "Be kind."}
LEGACY = {"protocolVersion": "2025-03-26", "capabilities": {"tools": {}}, "serverInfo": {"name": "s"}}


@dataclass(slots=True)
class Script:
    """A ``Wire`` that answers in order, and what it was sent."""

    answers: list[dict[str, Any] | Exception]
    sent: list[str] = field(default_factory=list)
    params: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    announced: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    async def negotiate_with(
        self, method: str, params: dict[str, Any], *, headers: dict[str, str], timeout_s: float
    ) -> dict[str, Any]:
        assert timeout_s == (1.0 if method == "server/discover" else 2.0)
        self.sent.append(method)
        self.params.append(params)
        self.headers.append(headers)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def announce(self, method: str, headers: dict[str, str]) -> None:
        self.announced.append((method, headers))


async def run(script: Script, era: Era | None = None) -> Profile:
    return await negotiate(
        script, era=era, capabilities={"roots": {}}, client_info={"name": "c"}, probe_s=1.0, handshake_s=2.0
    )


def unsupported(*versions: str) -> MCPError:
    return MCPError(code=-32022, message="version", data={"supported": list(versions)})


async def test_a_modern_server_is_asked_once() -> None:
    script = Script([MODERN])
    assert await run(script) == Profile(Era.MODERN, "2026-07-28", {"tools": {}}, {}, "Be kind.")
    assert script.sent == ["server/discover"]
    assert script.headers == [{"mcp-protocol-version": "2026-07-28", "mcp-method": "server/discover"}]
    assert script.params[0]["_meta"]["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
    assert script.announced == []


async def test_a_legacy_server_that_is_known_is_initialized_at_once() -> None:
    script = Script([LEGACY])
    assert await run(script, Era.LEGACY) == Profile(Era.LEGACY, "2025-03-26", {"tools": {}}, {"name": "s"})
    assert script.sent == ["initialize"]
    assert script.params == [
        {"protocolVersion": "2025-11-25", "capabilities": {"roots": {}}, "clientInfo": {"name": "c"}}
    ]
    assert script.headers == [{}]
    assert script.announced == [("notifications/initialized", {"mcp-protocol-version": "2025-03-26"})]


NOT_MODERN: dict[str, dict[str, Any] | Exception] = {
    "an unknown method": MCPError(code=-32601, message="Method not found"),
    "any other error": MCPError(code=-32000, message="Bad Request: Server not initialized"),
    "a refusal": HttpRefusalError(405),
    "silence": TimeoutError(),
    "older versions": unsupported("2025-11-25", "2025-06-18"),
    "only older versions offered": {"supportedVersions": ["2025-11-25"], "capabilities": {}},
    "nonsense": {"supportedVersions": 5},
    "no capabilities": {"supportedVersions": ["2026-07-28"]},
}


@pytest.mark.parametrize("answer", NOT_MODERN.values(), ids=NOT_MODERN)
async def test_what_is_not_the_answer_of_a_modern_server_leads_to_the_handshake(
    answer: dict[str, Any] | Exception,
) -> None:
    script = Script([answer, LEGACY])
    assert (await run(script)).era is Era.LEGACY
    assert script.sent == ["server/discover", "initialize"]


MODERN_WORDS: dict[str, Exception] = {
    "headers": MCPError(code=-32020, message="mismatch"),
    "a capability": MCPError(code=-32021, message="missing"),
    "newer versions alone": unsupported("2027-01-01"),
    "a credential": HttpRefusalError(401),
    "an outage": HttpRefusalError(503),
    "a broken connection": ConnectionResetError(),
}


@pytest.mark.parametrize("error", MODERN_WORDS.values(), ids=MODERN_WORDS)
async def test_what_says_nothing_of_the_era_or_speaks_for_the_modern_ends_it(error: Exception) -> None:
    script = Script([error])
    with pytest.raises(type(error)) as caught:
        await run(script)
    assert caught.value is error


async def test_a_connection_that_ends_over_the_question_says_so() -> None:
    with pytest.raises(ProbeBrokeError):
        await run(Script([MCPError(code=-32000, message="Connection closed")]))


async def test_a_server_that_names_a_version_of_ours_is_asked_again() -> None:
    script = Script([unsupported("2026-07-28"), MODERN])
    assert (await run(script)).era is Era.MODERN
    assert script.sent == ["server/discover"] * 2


async def test_a_slow_server_that_took_the_question_late_is_asked_again() -> None:
    script = Script([TimeoutError(), unsupported("2026-07-28"), MODERN])
    assert (await run(script)).era is Era.MODERN
    assert script.sent == ["server/discover", "initialize", "server/discover"]


async def test_it_is_not_asked_for_ever() -> None:
    script = Script([unsupported("2026-07-28")] * 9)
    with pytest.raises(MCPError):
        await run(script)
    assert script.sent == ["server/discover"] * 2


async def test_a_revision_that_nobody_here_speaks_is_refused() -> None:
    with pytest.raises(UpstreamError, match="no revision"):
        await run(Script([{**LEGACY, "protocolVersion": "2031-01-01"}]), Era.LEGACY)

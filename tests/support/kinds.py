"""Each kind of upstream the gateway has to serve: how to reach it directly, and the calls to compare."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from support import upstreams
from support.clients import mcp_client, sse_mcp_client, stdio_mcp_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from mcp import Client

    from support.clients import Mode

    Connect = Callable[[Mode], AbstractAsyncContextManager[Client]]

__all__ = ["CALLS", "KINDS", "Upstream", "all_upstreams"]

Call = tuple[str, dict[str, Any]]

_EVERYTHING: tuple[Call, ...] = (
    ("echo", {"message": "hello, wörld \u2028 \U0001f600"}),
    ("get-sum", {"a": 0.1, "b": 9007199254740993}),
    ("get-structured-content", {"location": "Chicago"}),
    ("get-tiny-image", {}),
    ("get-annotated-message", {"messageType": "error", "includeImage": True}),
    ("get-resource-links", {"count": 3}),
    # A result that says isError, and one for arguments that the schema does not allow.
    ("get-resource-reference", {"resourceType": "Text", "resourceId": -5}),
    ("get-sum", {"a": "one"}),
    ("echo", {}),
)
_TIME: tuple[Call, ...] = (
    ("convert_time", {"source_timezone": "Etc/UTC", "time": "12:30", "target_timezone": "Asia/Tokyo"}),
    ("convert_time", {"source_timezone": "Nowhere", "time": "12:30", "target_timezone": "Asia/Tokyo"}),
    ("convert_time", {"time": 5}),
    ("get_current_time", {"timezone": ""}),
)
_SDK: tuple[Call, ...] = (
    ("echo", {"message": "hello, wörld \u2028 \U0001f600 \x00"}),
    ("echo", {"message": ""}),
    ("add", {"a": 2**62, "b": 1}),
    ("weather", {"city": "Zürich"}),
    ("picture", {}),
    ("fail", {"reason": "the tool says no"}),
    ("refuse", {"code": -32050}),
    ("refuse", {"code": 77}),
    ("add", {"a": "one"}),
    ("add", {"a": 1, "b": 2, "surplus": {"deep": [None, True]}}),
)
CALLS: Mapping[str, tuple[Call, ...]] = {
    "everystdio": _EVERYTHING,
    "everyhttp": _EVERYTHING,
    "timestdio": _TIME,
    # The SDK's SSE client, on either side, refuses an event above 1 MiB.
    "legacysse": (*_SDK, ("large", {"size": 524_288})),
    "modern": (*_SDK, ("large", {"size": 2_097_152})),
}
KINDS = tuple(CALLS)


@dataclass(frozen=True, slots=True)
class Upstream:
    """One upstream: its name behind the gateway, its ``mcpServers`` entry, and a client of its own."""

    name: str
    entry: dict[str, Any] = field(repr=False)
    connect: Connect = field(repr=False)
    eras: tuple[Mode, ...]
    """The modes in which the upstream itself can be asked."""

    def era_for(self, mode: Mode) -> Mode:
        """Return the mode in which to ask directly what a client in ``mode`` asks through the gateway."""
        return mode if mode in self.eras else self.eras[0]


def _stdio(name: str, command: list[str], eras: tuple[Mode, ...]) -> Upstream:
    return Upstream(
        name,
        {"command": command[0], "args": command[1:]},
        lambda mode: stdio_mcp_client(command, mode),
        eras,
    )


@contextmanager
def all_upstreams(logs: Path) -> Iterator[dict[str, Upstream]]:
    """Run every kind of upstream; a stdio one is started by whoever connects."""
    with ExitStack() as stack:
        every = stack.enter_context(upstreams.everything_http(logs / "everything-http.log"))
        sse = stack.enter_context(upstreams.sdk_server("sse", logs / "sdk-sse.log"))
        modern = stack.enter_context(upstreams.sdk_server("http", logs / "sdk-http.log"))
        found = (
            _stdio("everystdio", upstreams.everything_stdio_command(), ("legacy",)),
            Upstream(
                "everyhttp",
                {"type": "http", "url": every.url},
                lambda mode: mcp_client(every.url, None, mode),
                ("legacy",),
            ),
            _stdio("timestdio", upstreams.time_command(), ("legacy", "2026-07-28")),
            Upstream("legacysse", {"type": "sse", "url": sse.url}, lambda _: sse_mcp_client(sse.url), ("legacy",)),
            Upstream(
                "modern",
                {"url": modern.url},
                lambda mode: mcp_client(modern.url, None, mode),
                ("legacy", "2026-07-28"),
            ),
        )
        yield {upstream.name: upstream for upstream in found}

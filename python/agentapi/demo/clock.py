"""The demo upstream over stdio: the time, anywhere. Run as ``python -m agentapi.demo.clock``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations
from pydantic import Field

__all__ = ["clock_server"]

Zone = Annotated[str, Field(description="IANA name, such as Europe/Berlin.", max_length=64)]


def clock_server() -> MCPServer:
    """Return the server with its two tools."""
    server = MCPServer("clock", instructions="Tells the time in any time zone.")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def current_time(time_zone: Zone = "UTC") -> str:
        """Tell the current time in a time zone, as ISO 8601."""
        return datetime.now(_zone(time_zone)).isoformat(timespec="seconds")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True, idempotent_hint=True))
    def convert_time(
        time: Annotated[datetime, Field(description="ISO 8601; UTC where it has no offset.")], to: Zone
    ) -> str:
        """Convert a time to another time zone."""
        aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
        return aware.astimezone(_zone(to)).isoformat(timespec="seconds")

    return server


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"There is no time zone called {name!r}.") from None


if __name__ == "__main__":
    clock_server().run("stdio")

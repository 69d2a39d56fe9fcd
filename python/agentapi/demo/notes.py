"""The demo upstream over Streamable HTTP: notes kept in memory while the gateway runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from hmac import compare_digest
from typing import TYPE_CHECKING, Annotated

from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations
from pydantic import Field
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["notes_app"]

_MAX_NOTES = 1000

Text = Annotated[str, Field(min_length=1, max_length=4000, description="What to remember.")]


@dataclass(slots=True)
class _Notebook:
    notes: list[str] = field(default_factory=list)


class _RequireToken:
    """Answers 401 to whoever does not present the token: the gateway does, with a credential it keeps sealed."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not compare_digest(
            Headers(scope=scope).get("authorization", "").encode(), self._expected
        ):
            await Response(status_code=401, headers={"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        await self._app(scope, receive, send)


def notes_app(token: str) -> Starlette:
    """Return the ASGI application; its MCP endpoint is ``/mcp`` and wants ``token`` as bearer token."""
    notebook = _Notebook()
    server = MCPServer("notes", instructions="Keeps short notes while `agentapi dev` runs.")

    @server.tool(annotations=ToolAnnotations(destructive_hint=False))
    def add_note(text: Text) -> str:
        """Keep a note and say how many there are."""
        if len(notebook.notes) >= _MAX_NOTES:
            raise ValueError(f"The notebook is full ({_MAX_NOTES} notes).")
        notebook.notes.append(text)
        return f"Noted. There are {len(notebook.notes)} notes."

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def list_notes() -> list[str]:
        """List every note, oldest first."""
        return notebook.notes

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def search_notes(words: Annotated[str, Field(min_length=1, max_length=200)]) -> list[str]:
        """List the notes that contain every one of the given words."""
        wanted = words.casefold().split()
        return [note for note in notebook.notes if all(word in note.casefold() for word in wanted)]

    app = server.streamable_http_app(stateless_http=True, json_response=True)
    app.user_middleware.append(Middleware(_RequireToken, token=token))
    return app

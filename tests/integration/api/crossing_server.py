"""A server of the SDK that asks its client everything there is to ask, in whichever era it is spoken to."""

import warnings
from typing import Annotated

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.resolve import Elicit, ListRoots, Resolve, Sample
from mcp_types import (
    CallToolResult,
    Completion,
    CompletionArgument,
    CompletionContext,
    CreateMessageResult,
    ListRootsResult,
    PromptReference,
    ResourceLink,
    ResourceTemplateReference,
    SamplingMessage,
    TextContent,
)
from pydantic import BaseModel

__all__ = ["crossing_server"]


class Answer(BaseModel):
    """What the user is asked for."""

    city: str


def _city() -> Elicit[Answer]:
    return Elicit("Which city?", Answer)


def _season(city: Annotated[Answer, Resolve(_city)]) -> Sample:
    """Ask in a second round, since it depends on the first."""
    return Sample([SamplingMessage(role="user", content=TextContent(text=f"Season in {city.city}?"))], max_tokens=5)


def _roots() -> ListRoots:
    return ListRoots()


def crossing_server() -> MCPServer:
    server = MCPServer("crossing")

    @server.tool()
    async def work(ctx: Context) -> str:
        """Report progress and log."""
        await ctx.report_progress(1, 2, "half")
        with warnings.catch_warnings():
            # Deprecated in the modern revision, and part of it.
            warnings.simplefilter("ignore")
            await ctx.info("working")
        await ctx.report_progress(2, 2, "whole")
        return "done"

    @server.tool()
    async def travel(
        city: Annotated[Answer, Resolve(_city)],
        season: Annotated[CreateMessageResult, Resolve(_season)],
        roots: Annotated[ListRootsResult, Resolve(_roots)],
    ) -> str:
        """Ask for everything."""
        assert isinstance(season.content, TextContent)
        return f"{city.city}, {season.content.text}, {roots.roots[0].uri}"

    @server.tool(structured_output=False)
    def link() -> CallToolResult:
        """Point to a resource."""
        return CallToolResult(content=[ResourceLink(uri="test://static", name="static")])

    @server.tool()
    async def touch(ctx: Context) -> str:
        """Change everything."""
        await ctx.notify_tools_changed()
        await ctx.notify_resource_updated("test://static")
        return "touched"

    @server.resource("test://static")
    def static() -> str:
        """A text."""
        return "text"

    @server.resource("test://item/{id}")
    def item(id: str) -> str:  # noqa: A002 - the template's name
        """One of many."""
        return f"item {id}"

    @server.prompt()
    def greet(name: str) -> str:
        """Greet."""
        return f"Hello {name}"

    @server.completion()  # type: ignore[no-untyped-call, untyped-decorator] # the SDK leaves it so
    async def complete(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,  # noqa: ARG001 - of the SDK
    ) -> Completion:
        about = ref.name if isinstance(ref, PromptReference) else ref.uri
        return Completion(values=[f"{about}: {argument.value}!"])

    return server

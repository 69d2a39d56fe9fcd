"""An upstream server that says in everything it gives whose it is."""

import warnings
from collections.abc import Callable
from typing import Annotated

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.resolve import Elicit, Resolve
from mcp_types import Completion, CompletionArgument, CompletionContext, PromptReference, ResourceTemplateReference
from pydantic import BaseModel

__all__ = ["canary_server"]


class _Answer(BaseModel):
    city: str


def canary_server(canary: Callable[[], str]) -> MCPServer:  # noqa: C901 - a list of what it has
    """Return a server of both eras, the names of whose tools, resources and prompts are the same for everybody."""
    server = MCPServer("shared", instructions=canary())

    def _question() -> Elicit[_Answer]:
        return Elicit(canary(), _Answer)

    @server.tool(description=canary())
    def echo(text: str) -> str:
        return f"{canary()} {text}"

    @server.tool(description=canary())
    async def tell(ctx: Context) -> str:
        await ctx.report_progress(1, 2, canary())
        with warnings.catch_warnings():
            # Deprecated in the modern revision, and part of it.
            warnings.simplefilter("ignore")
            await ctx.info(canary())
        return canary()

    @server.tool(description=canary())
    async def ask(answer: Annotated[_Answer, Resolve(_question)]) -> str:
        return f"{canary()} {answer.city}"

    @server.tool(description=canary())
    async def touch(ctx: Context) -> str:
        await ctx.notify_tools_changed()
        await ctx.notify_resource_updated("test://static")
        return canary()

    @server.resource("test://static", description=canary())
    def static() -> str:
        return canary()

    @server.resource(f"test://{canary()}", description=canary())
    def own() -> str:
        return canary()

    @server.resource("test://item/{id}", description=canary())
    def item(id: str) -> str:  # noqa: A002 - the template's name
        return f"{canary()} {id}"

    @server.prompt(description=canary())
    def greet(name: str) -> str:
        return f"{canary()} {name}"

    @server.completion()  # type: ignore[no-untyped-call, untyped-decorator] # the SDK leaves it so
    async def complete(
        ref: PromptReference | ResourceTemplateReference,  # noqa: ARG001 - of the SDK, as what follows
        argument: CompletionArgument,  # noqa: ARG001
        context: CompletionContext | None,  # noqa: ARG001
    ) -> Completion:
        return Completion(values=[canary()])

    return server

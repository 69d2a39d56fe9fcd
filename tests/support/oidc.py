"""A real authorization server that nobody here wrote: npm's ``oidc-provider`` as a process."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from support.node import REPOSITORY, install, node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["oidc_provider"]

_MANIFEST = REPOSITORY / "tests" / "integration" / "oauth" / "oidc"


@asynccontextmanager
async def oidc_provider(lifetime_s: int) -> AsyncIterator[str]:
    """Run the server with access tokens that last ``lifetime_s``; yield its issuer. It ends with its standard input."""
    tree = await asyncio.to_thread(install, _MANIFEST)
    program = tree / "server.mjs"
    program.write_bytes((_MANIFEST / "server.mjs").read_bytes())
    process = await asyncio.create_subprocess_exec(
        node(),
        program,
        str(lifetime_s),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
    finally:
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 10)

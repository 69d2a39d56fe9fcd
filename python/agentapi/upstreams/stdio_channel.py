"""A command as a transport: one JSON message a line, bounded in size, ended for certain.

In the place of the SDK's ``stdio_client``, which reads a line of any length into memory. Line framing, the order of
stopping (end of input, SIGTERM, SIGKILL) and the group of its own are the specification's and the same.

Source: specification 2025-11-25 and 2026-07-28, "stdio"; "Lifecycle", section "Shutdown".
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
from anyio import open_process  # anyio imports it when it is first named, which would be in the midst of a call
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from anyio.abc import Process
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from mcp.client._transport import TransportStreams

    from agentapi.upstreams.stdio import Run

__all__ = ["StdioProcess"]

_FLUSH_S: Final = 0.5
_EXIT_S: Final = 0.5
_GRACE_S: Final = 2.0
_POLL_S: Final = 0.01
_STREAM_ENDED: Final = (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError, ConnectionError)


class StdioProcess:
    """One run of a command that speaks MCP on its pipes.

    Args:
        run: What is run, where, with which environment, and what holds it to its bounds.
        max_message_bytes: A longer line ends the process.
        admit: Tells whether a line may be read as a message; one that may not is passed over.
        grace_s: How long it may take to end by itself, and again after SIGTERM.
    """

    def __init__(
        self,
        run: Run,
        *,
        max_message_bytes: int,
        admit: Callable[[bytes], bool] = lambda _: True,
        grace_s: float = _GRACE_S,
    ) -> None:
        self._parameters = run.parameters
        self._guard = run.guard
        self._max_message_bytes = max_message_bytes
        self._admit = admit
        self._grace_s = grace_s
        self._process: Process | None = None
        self._ending: str | None = None

    @property
    def ending(self) -> str | None:
        """Why it ended, in words; None while it runs, or where it was told to end."""
        if self._ending is None and self._process is not None and (code := self._process.returncode) is not None:
            return self._guard.ended_by() or (
                f"its process ended with exit code {code}" if code >= 0 else f"its process was ended by signal {-code}"
            )
        return self._ending

    def is_running(self) -> bool:
        """Return whether the process is there, asking the system: the event loop may not have noticed its end yet."""
        if self._process is None or self._process.returncode is not None:
            return False
        if not hasattr(os, "waitid"):
            return True
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False

    @contextlib.asynccontextmanager
    async def streams(self) -> AsyncIterator[TransportStreams]:
        """Start the command, yield its streams, and end it with all that it started.

        Raises:
            OSError: It cannot be started.
        """
        process = await open_process(
            [self._parameters.command, *self._parameters.args],
            env=get_default_environment() | (self._parameters.env or {}),
            # What a server writes to standard error is its own; it may hold anything, so it never reaches our log.
            stderr=subprocess.DEVNULL,
            cwd=self._parameters.cwd,
            start_new_session=True,
        )
        # Nothing is awaited until the process is sure to be ended again.
        self._process = process
        arrived, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        write, outgoing = anyio.create_memory_object_stream[SessionMessage](0)
        flushed = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, process, arrived)
            tasks.start_soon(self._write, process, outgoing, arrived, flushed)
            tasks.start_soon(self._watch, process)
            try:
                yield read, write
            finally:
                with anyio.CancelScope(shield=True):
                    # A server that is stuck writing reads nothing: let go of its output so that ours gets through.
                    read.close()
                    write.close()
                    with anyio.move_on_after(_FLUSH_S):
                        await flushed.wait()
                    await self._stop(process)
                    for stream in (read, write, arrived, outgoing):
                        stream.close()
                tasks.cancel_scope.cancel()

    async def _read(self, process: Process, arrived: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        if process.stdout is None:
            raise AssertionError(process.pid)
        line = bytearray()
        with arrived, contextlib.suppress(*_STREAM_ENDED):
            async for chunk in process.stdout:
                *ended, rest = chunk.split(b"\n")
                for part in ended:
                    line += part
                    if len(line) > self._max_message_bytes:
                        break
                    if self._admit(whole := bytes(line)):
                        await _hand_over(whole, arrived)
                    line.clear()
                else:
                    line += rest
                if len(line) > self._max_message_bytes:
                    self._ending = f"it sent a message larger than {self._max_message_bytes} bytes"
                    return
            # Its end follows that of its output; those who wait for an answer are told the exit code.
            await _has_ended(process, _EXIT_S)
        await _drain(process)

    async def _write(
        self,
        process: Process,
        outgoing: MemoryObjectReceiveStream[SessionMessage],
        arrived: MemoryObjectSendStream[SessionMessage | Exception],
        flushed: anyio.Event,
    ) -> None:
        if process.stdin is None:
            raise AssertionError(process.pid)
        try:
            with outgoing:
                async for each in outgoing:
                    text = each.message.model_dump_json(by_alias=True, exclude_unset=True)
                    await process.stdin.send(text.encode() + b"\n")
        except (*_STREAM_ENDED, OSError):
            # It may live on and say nothing: nobody shall wait for its answer.
            arrived.close()
        finally:
            flushed.set()

    async def _watch(self, process: Process) -> None:
        self._ending = await self._guard.watch(process.pid)
        await anyio.to_thread.run_sync(self._guard.kill, process.pid)
        _signal_group(process, signal.SIGKILL)

    async def _stop(self, process: Process) -> None:
        """End the process and its group, by asking first; done within three times the grace period."""
        if process.stdin is not None:
            with contextlib.suppress(*_STREAM_ENDED, OSError):
                await process.stdin.aclose()
        condemned = self._ending is not None
        if condemned or not await _has_ended(process, self._grace_s):
            _signal_group(process, signal.SIGTERM)
            await _has_ended(process, self._grace_s)
        # Also where the leader has gone: what it left behind is in its group, or its session.
        await anyio.to_thread.run_sync(self._guard.kill, process.pid)
        _signal_group(process, signal.SIGKILL)
        await _has_ended(process, self._grace_s)
        if process.stdout is not None:
            with contextlib.suppress(*_STREAM_ENDED, OSError):
                await process.stdout.aclose()
        # A descendant outside the group may hold the pipes; the transport would wait for it.
        transport = getattr(getattr(process, "_process", None), "_transport", None)
        if transport is not None:
            with contextlib.suppress(PermissionError):
                transport.close()


async def _has_ended(process: Process, within_s: float) -> bool:
    # Not ``process.wait()``, which also waits for the end of the pipes, and those a descendant may hold.
    with anyio.move_on_after(within_s):
        while process.returncode is None:  # noqa: ASYNC110 - there is no event to wait for
            await anyio.sleep(_POLL_S)
    return process.returncode is not None


async def _hand_over(line: bytes, arrived: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
    try:
        message = jsonrpc_message_adapter.validate_json(line.decode(errors="replace"), by_name=False)
    except ValueError:
        # Some servers greet people on their standard output; it is no message and nobody waits for it.
        return
    await arrived.send(SessionMessage(message))


async def _drain(process: Process) -> None:
    """Read on and forget, so that a server that still writes is not kept from ending."""
    if process.stdout is None:
        return
    with contextlib.suppress(*_STREAM_ENDED, OSError):
        while True:
            await process.stdout.receive()


def _signal_group(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)

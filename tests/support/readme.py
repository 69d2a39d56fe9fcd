"""Run the commands of a Markdown document as its reader would, in one shell, from top to bottom.

The convention, by the word after the fence:

- ``sh``: run, in order, in one temporary directory and one shell, so that variables and ``cd`` carry over. A
  command that fails fails the test.
- ``sh background until=URL``: what a reader leaves running in a terminal of its own. It is awaited until
  ``URL`` answers, whatever it answers, and interrupted, as by Ctrl-C, at the end. The output of the latest is in
  the file that ``README_LOG`` names.
- ``json title=NAME`` (any language with a title): the file ``NAME``, written before the commands after it.
- ``text``: shown output. ``json`` without a title must be JSON. Other languages are to be read only.

Spellings of ``sh`` that this would pass over (``bash``, ``shell``, ``console``, none at all) are refused, so
that no command escapes.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import textwrap
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.processes import in_session, still_alive, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Block", "ReadmeError", "commands", "parse", "run"]

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<info>[^`]*?) *$")
_OVERLOOKED = frozenset({"", "bash", "shell", "console", "shell-session", "zsh", "terminal"})
_READY_S = 300
"""The first block in the background installs everything and builds the extension."""


class ReadmeError(AssertionError):
    """A block breaks the convention or a command failed; the message names the line."""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block and the line of its fence."""

    line: int
    language: str
    words: tuple[str, ...]
    text: str

    def option(self, name: str) -> str | None:
        """Return the value of ``name=value`` after the language."""
        found = [word.removeprefix(f"{name}=") for word in self.words if word.startswith(f"{name}=")]
        return found[0] if found else None


def parse(document: str) -> list[Block]:
    """Return the fenced blocks of a Markdown ``document`` (CommonMark, section 4.5), all checked."""
    blocks: list[Block] = []
    opened: tuple[int, str, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(document.splitlines(), 1):
        found = _FENCE.match(line)
        if opened is None:
            if found:
                opened = (number, found["fence"], found["info"])
                lines = []
            continue
        start, fence, info = opened
        if found and found["fence"].startswith(fence) and not found["info"]:
            language, *words = info.split() or [""]
            blocks.append(Block(start, language, tuple(words), textwrap.dedent("\n".join(lines)) + "\n"))
            opened = None
        else:
            lines.append(line)
    if opened is not None:
        message = f"line {opened[0]}: the block is not closed"
        raise ReadmeError(message)
    for block in blocks:
        _check(block)
    return blocks


def _check(block: Block) -> None:
    if block.language in _OVERLOOKED:
        message = f"line {block.line}: {block.language!r} is not run; write sh for commands, text for output"
        raise ReadmeError(message)
    if block.language == "sh" and "background" in block.words and block.option("until") is None:
        message = f"line {block.line}: a block in the background needs until=URL"
        raise ReadmeError(message)
    if block.language == "json":
        try:
            json.loads(block.text)
        except ValueError as error:
            message = f"line {block.line}: not JSON: {error}"
            raise ReadmeError(message) from None


def commands(blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks that are run."""
    return [block for block in blocks if block.language == "sh"]


_PRELUDE = f"""
set -euo pipefail -m
readme_background=()
readme_end() {{
  local leader
  for leader in ${{readme_background[@]+"${{readme_background[@]}}"}}; do
    kill -INT -- "-$leader" 2>/dev/null || true
    wait "$leader" || true
  done
}}
readme_fail() {{
  echo "$1"
  cat "$README_LOG"
  exit 1
}}
readme_await() {{
  local deadline=$((SECONDS + {_READY_S}))
  until curl --noproxy "*" -sS -o /dev/null "$1" 2>/dev/null; do
    kill -0 "${{readme_background[-1]}}" 2>/dev/null || readme_fail "ended before $1 answered:"
    [ "$SECONDS" -lt "$deadline" ] || readme_fail "$1 does not answer:"
    sleep 0.1
  done
}}
trap readme_end EXIT
"""


def _script(blocks: Sequence[Block], progress: Path, directory: Path) -> str:
    parts = [_PRELUDE]
    for block in blocks:
        parts.append(f"echo {block.line} > {shlex.quote(str(progress))}\n")
        if title := block.option("title"):
            # A quoted here-document is taken as it is.
            parts.append(f"cat > {shlex.quote(title)} <<'README-END'\n{block.text}README-END\n")
        elif block.language == "sh" and "background" in block.words:
            log = shlex.quote(str(directory / f"line-{block.line}.log"))
            until = shlex.quote(str(block.option("until")))
            parts.append(
                f"README_LOG={log}\n{{ {block.text.rstrip()}\n}} > {log} 2>&1 < /dev/null &\n"
                f"readme_background+=($!)\nreadme_await {until}\n"
            )
        elif block.language == "sh":
            parts.append(block.text)
    return "".join(parts)


def run(blocks: Sequence[Block], directory: Path, env: Mapping[str, str], *, within_s: float) -> str:
    """Run the blocks in ``directory`` and return all they printed; end whatever they started.

    Raises:
        ReadmeError: A command failed, or not everything was done in time.
    """
    progress = directory.parent / f"{directory.name}.progress"
    script = directory.parent / f"{directory.name}.sh"
    progress.write_text("0")
    script.write_text(_script(blocks, progress, directory.parent))
    output = directory.parent / f"{directory.name}.out"
    with output.open("wb") as sink:
        shell = subprocess.Popen(
            # A shell that was started with interrupts ignored could not hand them on to what it interrupts.
            ["env", "--default-signal=INT", "bash", "--noprofile", "--norc", str(script)],
            cwd=directory,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
        try:
            code: int | None = shell.wait(within_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            left = in_session(shell.pid)
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            shell.wait(5)
            wait_until(lambda: not still_alive(left), within_s=5, what="what the document started ends")
    printed = output.read_text(errors="replace")
    if code != 0:
        how = f"not done within {within_s:g} s" if code is None else f"exit code {code}"
        message = f"line {progress.read_text().strip()}: {how}\n{printed[-4000:]}"
        raise ReadmeError(message)
    return printed

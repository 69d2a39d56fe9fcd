"""Every command of the README, run as its reader would; ``support.readme`` holds the convention."""

from __future__ import annotations

import os
import re
import stat
import sys
from typing import TYPE_CHECKING

import pytest

from support.gateway import dev_environment
from support.node import REPOSITORY
from support.processes import accepts, free_port, naming
from support.readme import ReadmeError, commands, parse, run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SMALL = """\
# Small

First make a file:

```json title=greeting.json
{"greeting": "hel'lo $HOME"}
```

1. In a list, with a variable:

   ```sh
   NAME=wor\\
   ld
   mkdir inner && cd inner
   ```

Then leave this running:

```sh background until=http://127.0.0.1:PORT/greeting.json
cd ..
exec PYTHON -m http.server --bind 127.0.0.1 PORT
```

~~~sh
curl -fsS http://127.0.0.1:PORT/greeting.json
echo "$NAME in $(basename "$PWD")"
grep -c GET "$README_LOG"
~~~

```text
world
```

```python
raise SystemExit("to be read only")
```
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    directory = tmp_path / "work"
    directory.mkdir()
    return directory


def _small(port: int) -> str:
    return SMALL.replace("PORT", str(port)).replace("PYTHON", sys.executable)


def test_small_document_is_run_from_top_to_bottom(work: Path) -> None:
    port = free_port()
    blocks = parse(_small(port))
    assert [block.line for block in commands(blocks)] == [11, 19, 24]
    printed = run(blocks, work, os.environ, within_s=60)
    assert printed.splitlines() == ['{"greeting": "hel\'lo $HOME"}', "world in inner", "2"]
    assert not accepts(port)
    assert not naming(str(work))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```sh\ntrue\nfalse\ntrue\n```\n", "line 1: exit code 1"),
        ("```sh\ntrue\n```\n```sh\nfalse | cat\n```\n", "line 4: exit code 1"),
        ("```sh\necho $UNDEFINED_HERE\n```\n", "line 1: exit code 1"),
        ("```sh\nsleep 60\n```\n", "line 1: not done within 1 s"),
        ("```sh background until=http://127.0.0.1:9/\nfalse\n```\n", "ended before"),
        ("```sh background\ntrue\n```\n", "line 1: a block in the background needs until=URL"),
        ("```bash\ntrue\n```\n", "line 1: 'bash' is not run"),
        ("```\ntrue\n```\n", "line 1: '' is not run"),
        ("\n```sh\ntrue\n", "line 2: the block is not closed"),
        ("```json\n{'a': 1}\n```\n", "line 1: not JSON"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(work: Path, text: str, problem: str) -> None:
    with pytest.raises(ReadmeError) as caught:
        run(parse(text), work, os.environ, within_s=1)
    assert problem in str(caught.value)
    assert not naming(str(work))


CLAUDE = """\
#!{python}
# Stands for Claude Code: does with an MCP server what `claude mcp add` is for, which is to connect to it.
import asyncio, sys
from support.clients import list_tools, mcp_client

arguments = sys.argv[1:]
assert arguments[:2] == ["mcp", "add"], arguments
assert arguments[arguments.index("--transport") + 1] == "http", arguments
header = next(a for a in arguments if a.startswith("Authorization: Bearer "))
url = next(a for a in arguments if a.startswith("http://"))

async def main():
    for mode in ("auto", "legacy"):
        async with mcp_client(url, header.removeprefix("Authorization: Bearer "), mode) as client:
            assert await list_tools(client)

asyncio.run(main())
print("added")
"""


def _environment(document: str, directory: Path) -> Mapping[str, str]:
    """Where the README's commands are found, and where what they write goes instead of the user's own files.

    A clone of the repository's address is one of this checkout, with a virtual environment of its own; what
    cargo has compiled is shared, since that takes minutes and depends on nothing here.
    """
    tools = directory / "bin"
    tools.mkdir()
    claude = tools / "claude"
    claude.write_text(CLAUDE.format(python=sys.executable))
    claude.chmod(claude.stat().st_mode | stat.S_IXUSR)
    # Another checkout's lines are not the ones to count, and are gone when they would be.
    inherited = {name: value for name, value in dev_environment().items() if not name.startswith("COVERAGE")}
    return {
        **inherited,
        "PATH": os.pathsep.join([str(tools), inherited["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY / "tests"), inherited.get("PYTHONPATH", "")])),
        "AGENTAPI_DATA_DIR": str(directory / "data"),
        "CARGO_TARGET_DIR": str(REPOSITORY / "target"),
        **_git_configuration(document),
    }


def _git_configuration(document: str) -> dict[str, str]:
    addresses = sorted(set(re.findall(r"git clone (?:-\S+ )*(\S+)", document)))
    # The checkout may belong to another user than the one who runs the tests.
    variables = {
        "GIT_CONFIG_COUNT": str(len(addresses) + 1),
        f"GIT_CONFIG_KEY_{len(addresses)}": "safe.directory",
        f"GIT_CONFIG_VALUE_{len(addresses)}": "*",
    }
    for number, address in enumerate(addresses):
        variables[f"GIT_CONFIG_KEY_{number}"] = f"url.{REPOSITORY}.insteadOf"
        variables[f"GIT_CONFIG_VALUE_{number}"] = address
    return variables


@pytest.mark.timeout(600)
def test_every_command_of_the_readme_runs(work: Path, tmp_path: Path) -> None:
    document = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    blocks = parse(document)
    assert commands(blocks), "the README shows no command"
    assert not accepts(8000), "port 8000, which the README uses, is taken"
    printed = run(blocks, work, _environment(document, tmp_path), within_s=540)
    assert "Traceback" not in printed
    assert not naming(str(tmp_path))

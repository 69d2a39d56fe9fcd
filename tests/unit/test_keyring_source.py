"""The keyring from a command: run once, without a shell, bounded, and never repeated."""

from __future__ import annotations

import shlex
import sys
import time
from typing import TYPE_CHECKING

import pytest

from agentapi._core import Keyring
from agentapi.errors import StartupError
from agentapi.keyring_source import _printed, load_keyring
from agentapi.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "a-secret-of-the-vault"


def command(source: str, *arguments: str) -> str:
    return shlex.join([sys.executable, "-c", source, *arguments])


def refusal(line: str) -> str:
    with pytest.raises(StartupError) as refused:
        load_keyring(load_settings(keyring_command=line))
    assert SECRET not in refused.value.message
    return refused.value.message


def test_a_command_prints_the_keyring_and_is_run_once(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    source = "import sys; open(sys.argv[1], 'a').write('x'); print(sys.argv[2])"
    line = command(source, str(runs), Keyring.generate("from-vault"))
    assert load_keyring(load_settings(keyring_command=line)).active_key_id == "from-vault"
    assert runs.read_text() == "x"


def test_no_shell_reads_the_command(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with pytest.raises(StartupError, match="cannot be used"):
        load_keyring(load_settings(keyring_command=f"echo $(touch {made}) ; touch {made}"))
    assert not made.exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "names no command"),
        ("vault 'kv", "a quotation does not end"),
        ("/no/such/program", "cannot be run: No such file or directory"),
        (command(f"import sys; print('{SECRET}'); print('{SECRET}', file=sys.stderr); sys.exit(3)"), "exit status 3"),
        (command(f"print('{SECRET}' * 10000)"), "more than 64 KiB"),
        (command("import sys; sys.stdout.buffer.write(bytes([255, 254]))"), "printed what is no keyring"),
        (command(f"print('{SECRET}')"), "cannot be used"),
        (command("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), "exit status -9"),
    ],
)
def test_what_goes_wrong_is_said_without_what_was_printed(
    line: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert words in refusal(line)
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "source",
    [
        "import time; time.sleep(60)",
        "import os, time; os.close(1); time.sleep(60)",
        "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True)",
    ],
    ids=["says nothing", "ends its output and stays", "leaves one behind"],
)
def test_a_command_that_takes_too_long_is_given_up(source: str) -> None:
    begun = time.monotonic()
    with pytest.raises(StartupError, match=r"did not end within 0\.5 s"):
        _printed(command(source), timeout_s=0.5)
    assert time.monotonic() - begun < 10


def test_a_keyring_comes_from_one_place(tmp_path: Path) -> None:
    settings = load_settings(keyring_command="true", keyring_file=tmp_path / "keyring.json")
    with pytest.raises(StartupError, match="AGENTAPI_KEYRING_FILE and AGENTAPI_KEYRING_COMMAND are set"):
        load_keyring(settings)

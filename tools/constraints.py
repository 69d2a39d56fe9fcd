"""Resolve every dependency, of the product and of its tests, into constraints.txt with hashes and no index address."""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent

HEADER = """\
# Every Python dependency of AgentAPI and of its tests, with hashes. Made by `make constraints`; do not edit.
# Install with: pip install --require-hashes -r constraints.txt
"""


def main() -> None:
    """Write constraints.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for group in project["dependency-groups"].values():
        wanted += group
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "requirements.in", Path(folder) / "constraints.txt"
        source.write_text("\n".join(wanted) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "piptools", "compile", "--quiet", "--generate-hashes", "--allow-unsafe"]
        command += ["--strip-extras", "--no-header", "--no-annotate"]
        command += ["--no-emit-index-url", "--no-emit-trusted-host", "--no-emit-find-links", "--no-emit-options"]
        environment = {name: value for name, value in os.environ.items() if name != "PIP_FIND_LINKS"}
        subprocess.run([*command, "--output-file", target, source], check=True, env=environment)
        resolved = target.read_text(encoding="utf-8")
    if re.search(r"https?://|^--", resolved, re.MULTILINE):
        sys.exit("The resolved file names an index; it must hold versions and hashes alone.")
    (ROOT / "constraints.txt").write_text(HEADER + resolved, encoding="utf-8")


if __name__ == "__main__":
    main()

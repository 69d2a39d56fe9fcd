"""Rules of STYLE.md and DESIGN.md that no linter knows: where SQL stands, and who reads the environment."""

from __future__ import annotations

import ast
import gc
import re
from collections import defaultdict
from pathlib import Path

import agentapi
from agentapi.storage.migrations import load_migrations

ROOT = Path(agentapi.__file__).parent
SQL = re.compile(
    r"^\s*(SELECT\s|INSERT\s+INTO\s|UPDATE\s+\w+\s+SET\s|DELETE\s+FROM\s|WITH\s+\w+\s+AS\s|CREATE\s+(TABLE|ROLE|DATABASE)|"
    r"ALTER\s+(TABLE|ROLE)|DROP\s+\w+|GRANT\s|REVOKE\s|TRUNCATE\s)"
)
"""Statements begin in capitals; prose does not."""

SQL_ALLOWED = {
    "storage/database.py": "the context of a transaction",
    "storage/embedded.py": "makes the roles and the database of `agentapi dev`",
    "storage/migrations.py": "runs the migrations",
    "storage/notifier.py": "asks itself whether it hears",
    "storage/resealing.py": "goes through the sealed columns that rooms declare",
}
ENVIRONMENT_ALLOWED = {
    "settings.py": "the only reader of AGENTAPI_*, through pydantic-settings",
    "upstreams/_launch.py": "a program of its own, which passes on the names it is told",
}
_ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


def sources() -> dict[str, ast.Module]:
    gc.disable()
    try:
        # What a collection finalizes may let another thread parse meanwhile, and CPython 3.11 counts the depth of both
        # in one place: it then raises SystemError for a sound file.
        return {str(path.relative_to(ROOT)): ast.parse(path.read_text("utf-8")) for path in ROOT.rglob("*.py")}
    finally:
        gc.enable()


def has_sql(tree: ast.Module) -> bool:
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return any(SQL.match(text) for text in texts)


def reads_environment(tree: ast.Module) -> bool:
    nodes = list(ast.walk(tree))
    imported = {
        alias.name for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "os" for alias in node.names
    }
    used = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
    }
    return bool(_ENVIRONMENT & (imported | used))


def test_sql_is_in_stores_and_storage_alone() -> None:
    found = {name for name, tree in sources().items() if has_sql(tree)}
    elsewhere = {name for name in found if Path(name).name != "store.py"}
    assert elsewhere == set(SQL_ALLOWED)
    assert {"tenancy/store.py", "upstreams/store.py"} <= found


def test_nobody_but_the_settings_reads_the_environment() -> None:
    found = {name for name, tree in sources().items() if reads_environment(tree)}
    assert found <= set(ENVIRONMENT_ALLOWED)


def test_a_module_stays_readable() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in ROOT.rglob("*.py")
        if (lines := len(path.read_text("utf-8").splitlines())) > 400
    }
    assert long == {}


def test_a_migration_has_a_number_of_its_own() -> None:
    """Their order would be that of their names otherwise, which nobody chose.

    The one pair is released and keeps its names, which deployments have recorded; neither needs the other.
    """
    numbered: dict[str, list[str]] = defaultdict(list)
    for migration in load_migrations():
        assert re.fullmatch(r"\d{4}_[a-z_]+", migration.name)
        numbered[migration.name[:4]].append(migration.name)
    twice = {number: names for number, names in numbered.items() if len(names) > 1}
    assert twice == {"0011": ["0011_key_rotation", "0011_upstream_protocol"]}


def test_the_rules_see_what_they_forbid() -> None:
    assert has_sql(ast.parse('x = """\n  SELECT 1 FROM t"""'))
    assert not has_sql(ast.parse('x = "Select a server, update it"'))
    assert reads_environment(ast.parse("import os\nos.environ['A']"))
    assert reads_environment(ast.parse("from os import getenv"))
    assert not reads_environment(ast.parse("import os\nos.open('x', 0)"))

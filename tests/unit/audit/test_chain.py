"""The hash of a row, against vectors that another program made by the words of the module's description."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pytest

from agentapi.audit.chain import hash_of
from agentapi.audit.models import AuditRow, WriterId
from agentapi.principal import OrgId, UserId

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "audit_chain.json").read_text("utf-8"))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_row_has_the_hash_of_its_vector(vector: dict[str, str]) -> None:
    row = AuditRow(
        OrgId(UUID(vector["org_id"])),
        WriterId(UUID(vector["writer_id"])),
        int(vector["sequence"]),
        int(vector["recorded_at_us"]),
        UserId(UUID(vector["actor_id"])) if vector["actor_id"] else None,
        vector["action"],
        vector["outcome"],
        vector["resource"],
        vector["address"],
        vector["agent"],
        vector["request_id"],
        vector["details"],
        bytes.fromhex(vector["previous"]),
        b"",
    )
    assert hash_of(row).hex() == vector["hash"]

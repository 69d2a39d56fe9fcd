"""Make ``audit_chain.json`` by the words of ``agentapi.audit.chain``, with nothing of the project's code.

python tests/vectors/make_audit_chain.py > tests/vectors/audit_chain.json
"""

from __future__ import annotations

import hashlib
import json
import sys
from uuid import UUID

TEXTS = ("action", "outcome", "resource", "address", "agent", "request_id", "details")
FIRST = {
    "name": "first row of the system",
    "org_id": "11111111-2222-3333-4444-555555555555",
    "writer_id": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
    "sequence": "1",
    "recorded_at_us": "1795392000000000",
    "actor_id": "",
    "action": "organization.created",
    "outcome": "success",
    "resource": "",
    "address": "",
    "agent": "",
    "request_id": "",
    "details": "{}",
    "previous": "00" * 32,
}
SECOND = {
    **FIRST,
    "name": "second row, of a user, with text beyond ASCII",
    "sequence": "2",
    "recorded_at_us": "1795392000000001",
    "actor_id": "99999999-8888-7777-6666-555555555555",
    "action": "tools.call",
    "outcome": "denied",
    "resource": "upstream:77777777-7777-7777-7777-777777777777",
    "address": "2001:db8::1",
    "agent": "agent/1.0 (\u00e4)",
    "request_id": "r-1",
    "details": '{"name":"\u65e5\u672c","ok":true}',
}


def length(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def digest(row: dict[str, str]) -> str:
    data = b"agentapi-audit-row-1"
    data += length(UUID(row["org_id"]).bytes) + length(UUID(row["writer_id"]).bytes)
    data += length(int(row["sequence"]).to_bytes(8, "big"))
    data += length(int(row["recorded_at_us"]).to_bytes(8, "big", signed=True))
    data += length(UUID(row["actor_id"]).bytes) if row["actor_id"] else b"\xff\xff\xff\xff"
    for name in TEXTS:
        data += length(row[name].encode())
    return hashlib.sha256(data + length(bytes.fromhex(row["previous"]))).hexdigest()


def main() -> None:
    first = {**FIRST, "hash": digest(FIRST)}
    chained = {**SECOND, "previous": first["hash"]}
    second = {**chained, "hash": digest(chained)}
    early = {**FIRST, "name": "a time before 1970", "recorded_at_us": "-1"}
    json.dump([first, second, {**early, "hash": digest(early)}], sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()

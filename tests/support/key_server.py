"""A stdio MCP server of the older revisions that has a key in ``KEY_TOKEN``, and ends at once if that is a bad one.

Its one tool tells which key it has and which process it is. In the standard library alone, so that it starts fast.
"""

from __future__ import annotations

import json
import os
import sys


def answer(method: str, key: str) -> dict[str, object] | None:
    """Return the result of a request, or None for a method that it does not have."""
    if method == "initialize":
        info = {"name": "keyed", "version": "1"}
        return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
    if method == "tools/list":
        return {"tools": [{"name": "whoami", "inputSchema": {"type": "object"}}]}
    if method == "tools/call":
        return {"content": [{"type": "text", "text": f"{key} in {os.getpid()}"}]}
    return {} if method == "ping" else None


def main() -> None:
    """Serve until the end of the input."""
    key = os.environ.get("KEY_TOKEN", "")
    if key.startswith("bad"):
        sys.exit(3)
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        found = answer(message["method"], key)
        outcome = {"error": {"code": -32601, "message": "no such method"}} if found is None else {"result": found}
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], **outcome}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""The command that the suite runs as its client: somebody who uses its server through a gateway.

The gateway runs already. This registers the suite's server there as an upstream, calls its tools through the gateway's
endpoint, and does as a user with a browser would where the gateway answers that an account has to be connected: it
opens the address, signs in, agrees at the authorization server, comes back, and calls again. Whether to connect, with
what and how often is the gateway's to say.
"""

from __future__ import annotations

import json
import os
import re
import sys
import zlib
from typing import TYPE_CHECKING, Any

import httpx2

from support.plain import PLAIN
from support.raw import modern_call, rpc
from support.walker import Walker

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BASE_URL", "MCP_URL", "TOKENS"]

BASE_URL, MCP_URL, TOKENS = "CONFORMANCE_GATEWAY", "CONFORMANCE_MCP_URL", "CONFORMANCE_TOKENS"
"""Environment variables that say where the gateway is, and with which tokens people use it."""
_TIMEOUT_S = 30.0
_PATIENCE = 6
"""How often this user connects for one call; the gateway has to give up before."""
_TOOL = "test-tool"
"""What every server of the suite's scenarios of authorization offers."""


def main() -> int:
    """Do what the scenario is about, and return 1 where the gateway refuses it."""
    url = sys.argv[1]
    scenario = os.environ["MCP_CONFORMANCE_SCENARIO"]
    if not scenario.startswith("auth/"):
        return 1
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    tokens = os.environ[TOKENS].split()
    token = tokens[zlib.crc32(scenario.encode()) % len(tokens)]
    name = _register(token, url, scenario, context)
    # Twice: what a server refuses of a token that it took before is told at the second call.
    return int(any(not _call(token, f"{name}__{_TOOL}") for _ in range(2)))


def _register(token: str, url: str, scenario: str, context: Mapping[str, Any]) -> str:
    """Register the suite's server as an upstream, with the client that the scenario gives; return its name."""
    port = str(httpx2.URL(url).port)
    name = re.sub(r"[^a-z0-9]+", "-", scenario.removeprefix("auth/"))[: 31 - len(port)].rstrip("-") + f"-{port}"
    given = {"name": name, "transport": "http", "endpoint": url, "auth": "oauth"}
    headers = {"Authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=os.environ[BASE_URL], headers=headers, timeout=_TIMEOUT_S, **PLAIN) as api:
        made = api.post("/api/v1/mcp/configurations", json=given)
        assert made.is_success, made.text
        if "issuer" in context:
            client = {member: context[member] for member in ("issuer", "client_id", "client_secret")}
            client["auth_method"] = "client_secret_basic"
            api.put("/api/v1/mcp/oauth/clients", json=client).raise_for_status()
            path = f"/api/v1/mcp/oauth/providers/{made.json()['id']}"
            chosen = {"provider": "mcp", "parameters": {"issuer": context["issuer"]}}
            api.put(path, json=chosen).raise_for_status()
    return name


def _call(token: str, tool: str) -> bool:
    """Call a tool and connect as often as the gateway says so; return whether there was a result in the end."""
    for _ in range(_PATIENCE):
        answer = rpc(modern_call(os.environ[MCP_URL], token, "tools/call", {"name": tool, "arguments": {}}))
        if "result" in answer:
            return True
        error = answer["error"]
        sys.stderr.write(f"{error}\n")
        address = (error.get("data") or {}).get("url")
        if address is None:
            return False
        page = Walker(token).walk(address)
        sys.stderr.write(f"{page}\n")
        if "Your account is connected" not in page:
            return False
    return False


if __name__ == "__main__":
    sys.exit(main())

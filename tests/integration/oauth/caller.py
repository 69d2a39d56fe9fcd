"""A gateway's OAuth room in a process of its own, which asks for one credential as often as it is told.

It says ``ready``, waits for a line, then asks for all at once and prints a digest of each. With ``--hold`` it says
``answered`` when the provider has renewed the tokens, and never stores them.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from agentapi._core import Keyring
from agentapi.egress import Egress
from agentapi.oauth import store
from agentapi.principal import OrgId, UpstreamId, UserId
from agentapi.storage.database import Database
from agentapi.upstreams import store as upstream_store
from agentapi.upstreams.link import Caller
from integration.oauth.conftest import room_of
from unit.oauth.sites import LOOPBACK


async def _never_stored(*_: Any) -> None:
    print("answered", flush=True)  # noqa: T201 - the test reads it
    await asyncio.get_running_loop().create_future()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dsn")
    parser.add_argument("keyring", type=Path)
    parser.add_argument("org", type=UUID)
    parser.add_argument("user", type=UUID)
    parser.add_argument("upstream", type=UUID)
    parser.add_argument("calls", type=int)
    parser.add_argument("--hold", action="store_true")
    given = parser.parse_args()
    if given.hold:
        store.store_refreshed = _never_stored  # type: ignore[assignment]
    caller = Caller(OrgId(given.org), UserId(given.user))
    database = await Database.connect(given.dsn, pool_min=1, pool_max=6, timeout_s=5.0)
    async with Egress(LOOPBACK, timeout_s=5.0) as egress:
        keyring = Keyring.parse(given.keyring.read_text("utf-8"))
        room = room_of(database, egress, keyring, lambda: datetime.now(UTC))
        async with database.user_transaction(caller.org_id, caller.user_id) as connection:
            upstream = await upstream_store.get_upstream(connection, UpstreamId(given.upstream))
        print("ready", flush=True)  # noqa: T201
        await asyncio.to_thread(sys.stdin.readline)
        found = await asyncio.gather(*(room.credentials.credential(upstream, caller) for _ in range(given.calls)))
        await room.refresher.aclose()
    await database.close()
    values = [credential.headers["Authorization"].get_secret_value() for credential in found]
    print(json.dumps([hashlib.sha256(value.encode()).hexdigest() for value in values]))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main())

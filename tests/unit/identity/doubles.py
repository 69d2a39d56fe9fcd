"""Issuers without a network: what they would serve, how often they were asked, and tokens of theirs."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from joserfc import jwt
from joserfc.jwk import ECKey

from agentapi.identity.issuers import IssuerDirectory
from agentapi.settings import IssuerSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

ISSUER = "https://issuer.example"
AUDIENCE = "https://gateway.example/mcp/acme/main"


@dataclass(slots=True)
class Clock:
    """Seconds that pass when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@cache
def signing_key(kid: str) -> ECKey:
    return ECKey.generate_key("P-256", {"kid": kid})


def key_set(*kids: str) -> bytes:
    return json.dumps({"keys": [signing_key(kid).as_dict(private=False) for kid in kids]}).encode()


def token(kid: str = "k1", *, issuer: str = ISSUER, **changes: Any) -> str:
    """A token that is good for ten minutes; a claim that is changed to ``...`` is left out."""
    now = int(time.time())
    claims = {"iss": issuer, "sub": "alice", "aud": AUDIENCE, "iat": now, "exp": now + 600, **changes}
    given = {name: value for name, value in claims.items() if value is not ...}
    return jwt.encode({"alg": "ES256", "kid": kid}, given, signing_key(kid))


@dataclass(slots=True)
class Web:
    """Documents by address; asking for one that is not there fails as a dead server does."""

    documents: dict[str, bytes | Exception] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None
    """While set and not open, every answer waits for it."""

    async def fetch(self, url: str) -> bytes:
        self.asked.append(url)
        if self.gate is not None:
            await self.gate.wait()
        else:
            await asyncio.sleep(0)
        document = self.documents[url]
        if isinstance(document, Exception):
            raise document
        return document


def remote(issuer: str = ISSUER, **settings: Any) -> IssuerSettings:
    """An issuer whose key set is at ``{issuer}/keys``."""
    return IssuerSettings.model_validate({"issuer": issuer, "jwks_url": f"{issuer}/keys", **settings})


def directory(
    issuers: Sequence[IssuerSettings],
    web: Web,
    clock: Clock,
    *,
    ttl_s: float = 600.0,
    min_interval_s: float = 60.0,
) -> IssuerDirectory:
    return IssuerDirectory(
        issuers,
        fetch=web.fetch,
        leeway_s=30,
        cache_entries=1000,
        ttl_s=ttl_s,
        min_interval_s=min_interval_s,
        clock=clock,
    )

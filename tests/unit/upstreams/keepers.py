"""Credentials that a test decides on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import SecretStr

from agentapi.errors import UpstreamNeedsConnectionError
from agentapi.upstreams.credentials import Credential

if TYPE_CHECKING:
    from agentapi.principal import UserId
    from agentapi.upstreams.challenges import Challenge
    from agentapi.upstreams.link import Caller
    from agentapi.upstreams.models import Upstream


@dataclass
class Keeper:
    """One bearer token for each user; a rejected one is followed by the next of ``renewals``."""

    tokens: dict[UserId, str] = field(default_factory=dict)
    renewals: list[str] = field(default_factory=list)
    rejections: list[Challenge] = field(default_factory=list)
    in_query: bool = False
    version: str = ""
    """The same for all, where a test says so."""

    async def credential(self, upstream: Upstream, caller: Caller) -> Credential:
        token = self.tokens.get(caller.user_id)
        if token is None:
            raise UpstreamNeedsConnectionError("none", upstream_id=upstream.id)
        return self._of(token, caller)

    async def rejected(
        self, upstream: Upstream, caller: Caller, credential: Credential, challenge: Challenge
    ) -> Credential:
        assert credential.version == self.tokens[caller.user_id]
        self.rejections.append(challenge)
        if challenge.error == "insufficient_scope" or not self.renewals:
            raise UpstreamNeedsConnectionError("more", upstream_id=upstream.id, scopes=challenge.scopes)
        self.tokens[caller.user_id] = self.renewals.pop(0)
        return self._of(self.tokens[caller.user_id], caller)

    def _of(self, token: str, caller: Caller) -> Credential:
        given = {"query": {"key": SecretStr(token)}} if self.in_query else {}
        headers = {} if self.in_query else {"Authorization": SecretStr(token)}
        return Credential(headers=headers, version=self.version or token, user_id=caller.user_id, **given)

"""The ``requestState`` of an upstream, sealed before a client sees it (specification 2026-07-28, "Multi Round-Trip").

Invariants:
    * A client echoes the state and may change it, so nothing of it reaches an upstream that does not open here.
    * It opens for the principal (user, agent session and API key) and the very request that it was sealed for
      (upstream, method, name and arguments), before it expires, and nowhere else: what a user was asked about one
      request agrees to no other.
    * Every failure to open reads alike, whatever its cause.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from mcp import MCPError
from mcp_types import INVALID_PARAMS

from agentapi._core import SealError
from agentapi.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentapi._core import Keyring
    from agentapi.gateway.exchange import Exchange
    from agentapi.gateway.items import Target
    from agentapi.principal import Principal, UpstreamId

__all__ = ["MAX_STATE_BYTES", "Binding", "InvalidRequestStateError", "RequestStates"]

MAX_STATE_BYTES = 64 * 1024
"""The longest state that an upstream may have a client carry."""

_MAX_SEALED_LENGTH = (MAX_STATE_BYTES + 128) * 4 // 3 + 4
"""The longest sealed form: key id, nonce, expiry and tag stay below 128 bytes, and base64 makes four of three."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Who asks for what: all that a retry has in common with the request before it."""

    principal: Principal
    upstream_id: UpstreamId
    method: str
    name: str
    """The tool, prompt or resource, as the upstream calls it."""
    arguments: object = field(default=None, repr=False)

    @classmethod
    def of(cls, exchange: Exchange, target: Target) -> Self:
        """Return what binds the states of a request about ``target``."""
        arguments = exchange.params.get("arguments")
        return cls(exchange.principal, target.upstream.id, exchange.method, target.name, arguments)


class InvalidRequestStateError(MCPError):
    """A state was not sealed here for this request, or is too old."""

    def __init__(self) -> None:
        super().__init__(INVALID_PARAMS, "The requestState is not valid for this request, or has expired.")


class RequestStates:
    """Seals and opens the states of multi-round-trip requests.

    Args:
        keyring: The deployment's; replicas that share it open each other's states.
        ttl_s: How long a client may take to answer.
        clock: Unix seconds.
    """

    def __init__(self, keyring: Keyring, ttl_s: float, clock: Callable[[], float] = time.time) -> None:
        self._keyring = keyring
        self._ttl_s = ttl_s
        self._clock = clock

    def seal(self, binding: Binding, state: str) -> str:
        """Return ``state`` for the client to carry.

        Args:
            binding: The request that it belongs to.
            state: What the upstream gave.

        Raises:
            UpstreamError: The state is too large.
        """
        # An upstream's JSON may hold a lone surrogate; it must come back to it unchanged.
        plaintext = state.encode("utf-8", "surrogatepass")
        if len(plaintext) > MAX_STATE_BYTES:
            raise UpstreamError(f"The upstream gave a requestState of more than {MAX_STATE_BYTES} bytes.")
        return self._keyring.seal_text_until(plaintext, _aad(binding), int(self._clock() + self._ttl_s))

    def open(self, binding: Binding, sealed: object) -> str:
        """Return the state that ``seal`` was given with the same binding.

        Raises:
            InvalidRequestStateError: It was not, or has expired.
        """
        if not isinstance(sealed, str) or len(sealed) > _MAX_SEALED_LENGTH or not sealed.isascii():
            raise InvalidRequestStateError
        try:
            plaintext = self._keyring.open_text_unexpired(sealed, _aad(binding), int(self._clock()))
        except SealError:
            raise InvalidRequestStateError from None
        return plaintext.decode("utf-8", "surrogatepass")


def _aad(binding: Binding) -> bytes:
    """Return what a state is bound to; as a JSON array, so that no two lists of parts are written alike."""
    principal = binding.principal
    # A client may spell the same arguments differently, or leave out that there are none.
    arguments = hashlib.sha256(json.dumps(binding.arguments or {}, sort_keys=True).encode()).hexdigest()
    acting = [principal.session_id and str(principal.session_id), principal.key_id and str(principal.key_id)]
    who = [str(principal.org_id), str(principal.user_id), *acting]
    parts = [*who, str(binding.upstream_id), binding.method, binding.name, arguments]
    return f"gateway.request_state/{json.dumps(parts)}".encode()

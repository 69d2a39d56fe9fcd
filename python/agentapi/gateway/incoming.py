"""One message of a client: as it came, as the scan found it, and as an object where somebody has to look into it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from agentapi._core import scan_envelope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentapi._core import Envelope

__all__ = ["Incoming"]

_MAX_DEPTH: Final = 255


@dataclass(slots=True, eq=False)
class Incoming:
    """One message.

    What the relay passes on is known from the scan, so the object is made only when it is asked for: it takes longer
    to make than all else that is done with the message, and as long as a stream is open its memory.
    """

    body: bytes = field(repr=False)
    envelope: Envelope
    _message: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def message(self) -> dict[str, Any]:
        """The message as an object; the scan refuses what Python could not read, down to numbers of too many digits."""
        if self._message is None:
            self._message = json.loads(self.body)
        return self._message or {}

    @property
    def method(self) -> str:
        """The method of a request or notification."""
        return self.envelope.method or ""

    @property
    def params(self) -> dict[str, Any]:
        """Its params, empty where there are none."""
        return self.message.get("params") or {}

    @property
    def id_json(self) -> bytes:
        """The id of a request as it is written."""
        return self.envelope.id_json or b"null"

    def read_as(self, params: Mapping[str, Any]) -> Incoming:
        """Return the same message with other params as an object; its bytes stay as they came."""
        return Incoming(self.body, self.envelope, {**self.message, "params": params})

    def rewritten(self, params: Mapping[str, Any]) -> Incoming:
        """Return the same request with other params, in bytes as well.

        They have to be less deep than those of a message that passed, and no longer but for the spelling: then they
        pass again.
        """
        message = {"jsonrpc": "2.0", "id": self.envelope.id, "method": self.method, "params": params}
        body = json.dumps(message, separators=(",", ":")).encode()
        return Incoming(body, scan_envelope(body, max_bytes=len(body), max_depth=_MAX_DEPTH), message)

"""Which header fields may carry a credential, and what may stand in one (RFC 9110, section 5)."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["carries_credential", "is_header_value"]

_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
"""Without the obsolete forms."""

_RESERVED: Final = frozenset(
    {
        "accept", "accept-encoding", "baggage", "connection", "content-encoding", "content-length", "content-type",
        "cookie", "date", "expect", "forwarded", "host", "keep-alive", "last-event-id", "origin", "te", "traceparent",
        "tracestate", "trailer", "transfer-encoding", "upgrade", "user-agent", "via",
    }
)  # fmt: skip
"""What the transport or the protocol says of a request itself."""
_RESERVED_PREFIXES: Final = ("mcp-", "proxy-", "sec-", "x-forwarded-")


def carries_credential(header: str) -> bool:
    """Return whether an upstream's credential may travel in ``header``: a field name that the transport leaves free."""
    lowered = header.lower()
    if _NAME.fullmatch(header) is None or lowered in _RESERVED:
        return False
    return not lowered.startswith(_RESERVED_PREFIXES)


def is_header_value(text: str) -> bool:
    """Return whether ``text`` can be sent as it is in a header field (RFC 9110, section 5.5)."""
    return _VALUE.fullmatch(text) is not None

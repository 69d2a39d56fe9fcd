"""What is hashed of a row, and how rows make a chain.

The hash of a row is SHA-256 over the tag ``agentapi-audit-row-1`` and then, in this order, its fields, each preceded by
its length in bytes as four bytes, big-endian (``ff ff ff ff`` for a null, which has no bytes):

    org_id       16 bytes
    writer_id    16 bytes
    sequence     8 bytes, big-endian
    recorded_at  8 bytes, big-endian, signed: microseconds since 1970-01-01T00:00:00Z
    actor_id     16 bytes, or null for the system
    action, outcome, resource, address, agent, request_id, details    UTF-8
    previous     32 bytes: the hash of the row before, or zeros for the first of its chain

So no two different rows have the same encoding, and a chain is one of rows with the same organisation and writer whose
sequence counts from 1. ``tests/vectors/audit_chain.json`` has examples.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from agentapi.audit.models import AuditRow, Head

if TYPE_CHECKING:
    from agentapi.audit.models import Draft, WriterId

__all__ = ["NO_HASH", "hash_of", "head_of", "link"]

NO_HASH: Final = bytes(32)
"""Stands where the first row of a chain has nothing before it."""
_TAG: Final = b"agentapi-audit-row-1"
_PLACE: Final = struct.Struct(">20sI16sI16sIQIq")
_LENGTH: Final = struct.Struct(">I").pack
_NULL: Final = b"\xff\xff\xff\xff"


def hash_of(row: AuditRow) -> bytes:
    """Return the hash that ``row`` must have."""
    return _digest(row, row.writer_id, row.sequence, row.recorded_at_us, row.previous)


def link(draft: Draft, writer_id: WriterId, head: Head | None) -> AuditRow:
    """Return ``draft`` as the row behind ``head``; its time is not before that of the row before it."""
    if head is None:
        sequence, at_us, previous = 1, draft.at_us, NO_HASH
    else:
        sequence, at_us, previous = head.sequence + 1, max(draft.at_us, head.recorded_at_us), head.hash
    return AuditRow(
        draft.org_id,
        writer_id,
        sequence,
        at_us,
        draft.actor_id,
        draft.action,
        draft.outcome,
        draft.resource,
        draft.address,
        draft.agent,
        draft.request_id,
        draft.details,
        previous,
        _digest(draft, writer_id, sequence, at_us, previous),
    )


def head_of(row: AuditRow) -> Head:
    """Return ``row`` as the head of its chain."""
    return Head(row.writer_id, row.sequence, row.hash, row.recorded_at_us)


def _digest(content: AuditRow | Draft, writer_id: WriterId, sequence: int, at_us: int, previous: bytes) -> bytes:
    actor = content.actor_id
    pieces = [
        _PLACE.pack(_TAG, 16, content.org_id.bytes, 16, writer_id.bytes, 8, sequence, 8, at_us),
        _NULL if actor is None else b"\x00\x00\x00\x10" + actor.bytes,
    ]
    for text in (
        content.action,
        content.outcome,
        content.resource,
        content.address,
        content.agent,
        content.request_id,
        content.details,
    ):
        data = text.encode()
        pieces += (_LENGTH(len(data)), data)
    pieces += (b"\x00\x00\x00\x20", previous)
    return sha256(b"".join(pieces)).digest()

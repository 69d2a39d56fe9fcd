"""Find what was done to an organisation's log since it was written.

Rows are read chain by chain and checkpoints in their order, both of one moment, so that what is written meanwhile
disturbs nothing. Of each chain the first thing that is wrong is told; what follows it would be wrong for that alone.

What cannot be found: rows that the application's role itself appended to the end of a chain, and the end of a chain
that no checkpoint had named yet. An older state of the whole database, checkpoints included, shows against checkpoints
that were kept elsewhere (``anchors``).
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from agentapi.audit import store
from agentapi.audit.chain import NO_HASH, hash_of
from agentapi.audit.checkpoints import encoded, read_heads
from agentapi.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentapi.audit.models import AuditRow, Checkpoint, Head, WriterId
    from agentapi.audit.signing import PublicKeys
    from agentapi.principal import OrgId
    from agentapi.storage.database import Connection

__all__ = ["Anchors", "Finding", "Report", "read_anchors", "verify"]

Anchors = dict[UUID, dict[int, str]]
"""Hashes of checkpoints that were kept elsewhere, by organisation and number."""

_NOTHING: Final = (0, NO_HASH)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, and where; without a writer it is about the checkpoints."""

    org_id: str
    kind: str
    message: str
    writer_id: str | None = None
    sequence: int | None = None


@dataclass(slots=True)
class Report:
    """What a verification found of one organisation."""

    org_id: str
    rows: int = 0
    chains: int = 0
    checkpoints: int = 0
    last_checkpoint_us: int | None = None
    uncovered_rows: int = 0
    """Rows behind the last that a checkpoint names; that these were cut off would not show yet."""
    findings: list[Finding] = field(default_factory=list)


@dataclass(slots=True)
class _Stated:
    """What the checkpoints say of the chains."""

    heads: defaultdict[WriterId, dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))
    dropped: dict[WriterId, tuple[int, bytes]] = field(default_factory=dict)

    def last(self, writer_id: WriterId) -> int:
        return max(self.heads[writer_id], default=0) if writer_id in self.heads else 0


def read_anchors(lines: Iterable[str]) -> Anchors:
    """Read checkpoints from lines of JSON with ``org_id``, ``sequence`` and ``hash``, such as those of the log.

    Raises:
        StartupError: None of the lines is such.
    """
    anchors: defaultdict[UUID, dict[int, str]] = defaultdict(dict)
    for line in lines:
        try:
            entry = json.loads(line)
            if entry.get("event", "audit_checkpoint") == "audit_checkpoint":
                anchors[UUID(entry["org_id"])][int(entry["sequence"])] = str(entry["hash"])
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    if not anchors:
        raise StartupError("The anchors hold no line with org_id, sequence and hash of a checkpoint.")
    return dict(anchors)


async def verify(
    connection: Connection, org_id: OrgId, keys: PublicKeys, *, anchors: Mapping[int, str] | None = None
) -> Report:
    """Check all rows and checkpoints of an organisation; the transaction is read-only and of one moment."""
    report = Report(str(org_id))
    stated = await _checkpoints(connection, org_id, keys, anchors or {}, report)
    seen: set[WriterId] = set()
    chain: _Chain | None = None
    async for row in store.rows_to_verify(connection, org_id):
        if chain is None or chain.writer_id != row.writer_id:
            if chain is not None:
                chain.end()
            chain = _Chain(row.writer_id, stated, report)
            seen.add(row.writer_id)
        chain.add(row)
    if chain is not None:
        chain.end()
    for writer_id in stated.heads.keys() - seen:
        _Chain(writer_id, stated, report).end()
    report.chains = len(seen)
    return report


class _Chain:
    """One chain as it is read."""

    def __init__(self, writer_id: WriterId, stated: _Stated, report: Report) -> None:
        self.writer_id = writer_id
        self._report = report
        self._heads: dict[int, bytes] = stated.heads.get(writer_id, {})
        self._covered = stated.last(writer_id)
        self._sequence, self._hash = stated.dropped.get(writer_id, _NOTHING)
        self._first = self._sequence + 1
        self._at_us = -(2**63)
        self._broken = False

    def add(self, row: AuditRow) -> None:
        """Take the next row."""
        self._report.rows += 1
        self._report.uncovered_rows += row.sequence > self._covered
        if self._broken:
            return
        problem = self._misplaced(row) or self._altered(row)
        if problem is not None:
            self._find(*problem, row.sequence)
            return
        self._sequence, self._hash, self._at_us = row.sequence, row.hash, row.recorded_at_us

    def end(self) -> None:
        """Note that there are no further rows."""
        if not self._broken and self._sequence < self._covered:
            first = self._sequence + 1
            what = "the chain is missing" if self._sequence == 0 else f"its end from row {first} on is missing"
            self._find("cut_tail", f"{what}; a checkpoint names row {self._covered}", first)

    def _misplaced(self, row: AuditRow) -> tuple[str, str] | None:
        expected = self._sequence + 1
        if row.sequence > expected:
            return "missing", f"rows {expected} to {row.sequence - 1} are missing before it"
        if row.sequence < expected:
            return "inserted", "there is another row of that number, or it was dropped long ago"
        return None

    def _altered(self, row: AuditRow) -> tuple[str, str] | None:
        if row.hash != hash_of(row):
            return "changed", "its content does not have its hash"
        if row.previous != self._hash:
            return "unlinked", "it does not follow from the row before: rows were put in other places, or written anew"
        if row.recorded_at_us < self._at_us:
            return "reordered", "it is of an earlier time than the row before"
        if self._heads.get(row.sequence, row.hash) != row.hash:
            return "rewritten", "a checkpoint names another row in its place, so the chain was written anew"
        return None

    def _find(self, kind: str, message: str, sequence: int) -> None:
        self._broken = True
        finding = Finding(self._report.org_id, kind, message, str(self.writer_id), sequence)
        self._report.findings.append(finding)


async def _checkpoints(
    connection: Connection, org_id: OrgId, keys: PublicKeys, anchors: Mapping[int, str], report: Report
) -> _Stated:
    """Check the checkpoints, and return what those say that are genuine."""
    stated = _Stated()
    anchors = dict(anchors)
    last: Checkpoint | None = None
    dropped: tuple[int, str] | None = None
    oldest: Checkpoint | None = None
    async for checkpoint in store.checkpoints_to_verify(connection, org_id):
        report.checkpoints += 1
        report.last_checkpoint_us = checkpoint.taken_at_us
        problem = _checkpoint_problem(checkpoint, last, keys, anchors.pop(checkpoint.sequence, None))
        if problem is not None:
            report.findings.append(Finding(str(org_id), *problem, sequence=checkpoint.sequence))
        else:
            statement = json.loads(checkpoint.statement)
            _learn(statement, stated)
            if statement.get("checkpoints") is not None:
                number, hash_ = statement["checkpoints"]
                dropped = (number, hash_)
        oldest = oldest or checkpoint
        last = checkpoint
    _check_oldest(oldest, dropped, report)
    first = 0 if oldest is None else oldest.sequence
    gone = sorted(number for number in anchors if number >= first)
    if gone:
        message = f"checkpoint {gone[0]} was kept elsewhere and is not there: an older state was put in place"
        report.findings.append(Finding(str(org_id), "rolled_back", message, sequence=gone[0]))
    return stated


def _checkpoint_problem(
    checkpoint: Checkpoint, last: Checkpoint | None, keys: PublicKeys, anchor: str | None
) -> tuple[str, str] | None:
    unsigned = _unsigned(checkpoint, keys)
    if unsigned is not None:
        return unsigned
    if last is not None and checkpoint.sequence != last.sequence + 1:
        return "checkpoint_missing", f"it follows on checkpoint {last.sequence}"
    if last is not None and checkpoint.previous != last.hash:
        return "checkpoint_unlinked", "the checkpoint does not follow from the one before"
    if anchor is not None and anchor != checkpoint.hash.hex():
        return "checkpoint_replaced", "the checkpoint is another than the one that was kept elsewhere"
    return None


def _unsigned(checkpoint: Checkpoint, keys: PublicKeys) -> tuple[str, str] | None:
    """Return why a checkpoint is not one that was signed."""
    data = encoded(checkpoint)
    if checkpoint.hash != sha256(data).digest():
        return "checkpoint_changed", "the checkpoint does not have its hash"
    if not keys.knows(checkpoint.key_id):
        return (
            "checkpoint_key_unknown",
            f"the checkpoint is signed with the key {checkpoint.key_id}, which was not given",
        )
    if not keys.verifies(checkpoint.key_id, checkpoint.signature, data):
        return "checkpoint_forged", "the signature of the checkpoint is not good"
    return None


def _check_oldest(oldest: Checkpoint | None, dropped: tuple[int, str] | None, report: Report) -> None:
    """Check that what precedes the oldest checkpoint was dropped as it should be."""
    if oldest is None:
        return
    before = _NOTHING if dropped is None else (dropped[0], bytes.fromhex(dropped[1]))
    if oldest.sequence != before[0] + 1 or oldest.previous != before[1]:
        message = f"the checkpoints before {oldest.sequence} are missing"
        report.findings.append(Finding(report.org_id, "checkpoint_missing", message, sequence=oldest.sequence))


def _learn(statement: dict[str, Any], stated: _Stated) -> None:
    heads: list[Head] = read_heads(statement.get("heads", []))
    for head in heads:
        stated.heads[head.writer_id][head.sequence] = head.hash
    for head in read_heads(statement.get("dropped", [])):
        stated.dropped[head.writer_id] = (head.sequence, head.hash)

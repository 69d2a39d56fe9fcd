"""What an audit log holds: acts, who did them, and the rows they become."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NewType, Protocol
from uuid import UUID

from agentapi.observability.redaction import is_sensitive, scrub
from agentapi.principal import OrgId, UserId

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = [
    "DEPLOYMENT",
    "Actor",
    "AuditRow",
    "Checkpoint",
    "Doer",
    "Draft",
    "Entry",
    "Filter",
    "Head",
    "Outcome",
    "Position",
    "Source",
    "WriterId",
    "storable",
]

WriterId = NewType("WriterId", UUID)

DEPLOYMENT: Final = OrgId(UUID(int=0))
"""Stands where an organisation would, for acts of the deployment and of strangers; only the operator reads those."""

_ACTION: Final = re.compile(r"[a-z_]+(\.[a-z_]+)+")
_MAX_ACTION: Final = 64
_MAX_RESOURCE: Final = 256
_MAX_KEYS: Final = 16
_MAX_KEY: Final = 64
_MAX_VALUE: Final = 256
_MAX_INTEGER: Final = 2**63 - 1
_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode

Value = str | int | bool | None
"""What a detail may be; a time or a size goes in as a whole number."""


class Outcome(StrEnum):
    """How an act ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    DENIED = "denied"
    CANCELLED = "cancelled"


class Doer(Protocol):
    """Whoever acts in an organisation; a ``Principal`` is one."""

    @property
    def org_id(self) -> OrgId:
        """The organisation whose log it goes into."""

    @property
    def user_id(self) -> UserId | None:
        """The user, or None for the system itself."""


@dataclass(frozen=True, slots=True)
class Actor:
    """A doer without a request: a job, a command, or somebody who did not get as far as to be a principal."""

    org_id: OrgId
    user_id: UserId | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where an act came from, as far as that is known."""

    address: str = ""
    agent: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One act.

    A detail is never a secret: a key that sounds like one is a defect of the caller's, and of a value that looks like
    one the log keeps ``[redacted]``. Text is cut at 256 characters.

    Raises:
        ValueError: The action is not ``room.verb``, or the details are not what details may be.
    """

    action: str
    outcome: Outcome
    resource: str = ""
    """``kind:id``, such as ``upstream:<uuid>``."""
    details: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_action(self.action)
        _check_keys(tuple(self.details))

    @property
    def details_json(self) -> str:
        """The details as the row holds them: one JSON object, its keys sorted."""
        if not self.details:
            return "{}"
        return _ENCODE({key: _bounded(key, value) for key, value in self.details.items()})

    @property
    def resource_text(self) -> str:
        """The resource as the row holds it."""
        return storable(self.resource, _MAX_RESOURCE)


@dataclass(frozen=True, slots=True)
class Draft:
    """What a row will hold before it has its place in a chain."""

    org_id: OrgId
    at_us: int
    actor_id: UserId | None
    action: str
    outcome: str
    resource: str
    address: str
    agent: str
    request_id: str
    details: str


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One row of the log; ``chain.hash_of`` says how the hash follows from all else."""

    org_id: OrgId
    writer_id: WriterId
    sequence: int
    recorded_at_us: int
    """Microseconds since the beginning of 1970, UTC; within a chain it never goes back."""
    actor_id: UserId | None
    action: str
    outcome: str
    resource: str
    address: str
    agent: str
    request_id: str
    details: str
    previous: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The last row of a chain."""

    writer_id: WriterId
    sequence: int
    hash: bytes
    recorded_at_us: int = 0


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows somebody asks for; what is None does not matter."""

    actor_id: UUID | None = None
    action: str | None = None
    resource: str | None = None
    outcome: Outcome | None = None
    request_id: str | None = None
    since: datetime | None = None
    """From this time on."""
    until: datetime | None = None
    """Before this time."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the order of rows, by time and then by chain: behind the row that it names."""

    recorded_at_us: int
    writer_id: UUID
    sequence: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint as it is stored; ``checkpoints`` says what it states and how it is signed."""

    org_id: OrgId
    sequence: int
    taken_at_us: int
    kind: str
    statement: str
    previous: bytes
    hash: bytes
    key_id: str
    signature: bytes


@lru_cache(maxsize=4096)
def storable(text: str, limit: int) -> str:
    """Return ``text`` as a row may hold it: cut, without what PostgreSQL or UTF-8 refuses, and without secrets."""
    cut = text[:limit].replace("\0", "").encode("utf-8", "replace").decode()
    return scrub(cut)[:limit]


def _bounded(key: str, value: Value) -> Value:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if abs(value) > _MAX_INTEGER:
            raise ValueError(f"The detail {key} is not a number of 64 bits.")
        return value
    return storable(value, _MAX_VALUE)


@lru_cache(maxsize=1024)
def _check_action(action: str) -> None:
    if _ACTION.fullmatch(action) is None or len(action) > _MAX_ACTION:
        raise ValueError(f"{action!r} is not an action like room.verb.")


@lru_cache(maxsize=1024)
def _check_keys(keys: tuple[str, ...]) -> None:
    if len(keys) > _MAX_KEYS:
        raise ValueError(f"An entry has at most {_MAX_KEYS} details.")
    for key in keys:
        if not key or len(key) > _MAX_KEY or not key.isascii():
            raise ValueError("The key of a detail is ASCII of at most 64 characters.")
        if is_sensitive(key):
            raise ValueError(f"The detail {key} reads like a secret, which no audit log holds.")

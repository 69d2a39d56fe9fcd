"""What a user brought, sealed and opened, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NewType
from uuid import UUID

from agentapi.audit.models import Entry, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from pydantic import SecretStr

    from agentapi.principal import OrgId, UpstreamId, UserId
    from agentapi.upstreams.models import Upstream

__all__ = ["Brought", "BroughtId", "Standing", "Stored", "StoredStatus", "destination_of", "entry"]

BroughtId = NewType("BroughtId", UUID)


class StoredStatus(StrEnum):
    """Whether the upstream took the values when they were last used."""

    ACTIVE = "active"
    NARROW = "narrow"
    """It took them, and said of some call that they may do too little."""
    REJECTED = "rejected"


class Standing(StrEnum):
    """What a user is told of what he brought."""

    MISSING = "missing"
    ACTIVE = "active"
    NARROW = "narrow"
    """The upstream takes the values, and wants some that may do more."""
    REJECTED = "rejected"
    """The upstream refuses the values."""
    OUTDATED = "outdated"
    """The upstream has another address or form than when they were given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One user's values for one upstream as their row has them; a new id for each set of values."""

    id: BroughtId
    org_id: OrgId
    user_id: UserId
    upstream_id: UpstreamId
    sealed: bytes = field(repr=False)
    status: StoredStatus = StoredStatus.ACTIVE
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Brought:
    """The values by field, and where they may be sent."""

    values: Mapping[str, SecretStr]
    destination: str


def entry(what: str, upstream_id: UpstreamId, outcome: Outcome = Outcome.SUCCESS) -> Entry:
    """Return what the audit log keeps of something that happened to a user's values; never the values."""
    return Entry(f"credentials.{what}", outcome, f"upstream:{upstream_id}")


def destination_of(upstream: Upstream) -> str:
    """Return everything that says where values for ``upstream`` go; labels and help may change without it."""
    if upstream.credential_form is None:
        raise AssertionError(upstream.id)
    target = upstream.endpoint if upstream.command is None else upstream.command
    placed = (f"{one.place} {one.name}: {one.value}" for one in upstream.credential_form.placements)
    return "\n".join((f"{upstream.transport} {target}", *placed))

"""SQL of invitations, in a transaction of their organisation; row-level security picks whose they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentapi.principal import Role
from agentapi.tenancy.models import Invitation, Offer
from agentapi.tenancy.store import organization_in

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg

    from agentapi.storage.database import Connection
    from agentapi.tenancy.models import Claimant

__all__ = ["create_invitation", "delete_invitation", "find_offer", "list_invitations", "take_invitation"]

_CREATE_INVITATION = """
INSERT INTO invitations (id, org_id, token_hash, role, email, subject, created_by, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING *
"""
_LIST_INVITATIONS = "SELECT * FROM invitations WHERE id > $1 AND expires_at > now() ORDER BY id LIMIT $2"
_DELETE_INVITATION = "DELETE FROM invitations WHERE id = $1 RETURNING *"
_SWEEP_INVITATIONS = "DELETE FROM invitations WHERE expires_at <= now()"
_TAKE_INVITATION = """
DELETE FROM invitations
WHERE token_hash = $1 AND expires_at > now()
  AND (email IS NULL OR lower(email) = lower($2)) AND (subject IS NULL OR subject = $3)
RETURNING *
"""
_FIND_OFFER = "SELECT * FROM invitations WHERE token_hash = $1 AND expires_at > now()"
_OFFERED_BY = """
SELECT o.*, COALESCE(m.email, m.subject) AS inviter
FROM organizations o LEFT JOIN members m ON m.org_id = o.id AND m.user_id = $2
WHERE o.id = $1 AND o.suspended_at IS NULL
"""


async def create_invitation(connection: Connection, invitation: Invitation, token_hash: bytes) -> Invitation:
    """Store an invitation, and forget those that are over."""
    await connection.execute(_SWEEP_INVITATIONS)
    row = await connection.fetchrow(
        _CREATE_INVITATION,
        invitation.id,
        invitation.org_id,
        token_hash,
        invitation.role,
        invitation.email,
        invitation.subject,
        invitation.created_by,
        invitation.expires_at,
    )
    if row is None:
        raise AssertionError("INSERT ... RETURNING gives a row or raises")
    return _invitation(row)


async def list_invitations(connection: Connection, *, after: UUID, limit: int) -> list[Invitation]:
    """Return the invitations that may still be taken, in the order of their ids."""
    return [_invitation(row) for row in await connection.fetch(_LIST_INVITATIONS, after, limit)]


async def delete_invitation(connection: Connection, invitation_id: UUID) -> Invitation | None:
    """Take an invitation back."""
    row = await connection.fetchrow(_DELETE_INVITATION, invitation_id)
    return None if row is None else _invitation(row)


async def take_invitation(connection: Connection, token_hash: bytes, claimant: Claimant) -> Invitation | None:
    """Use up the invitation of that hash if it is good for ``claimant``: of any number, one gets it."""
    row = await connection.fetchrow(_TAKE_INVITATION, token_hash, claimant.email, claimant.subject)
    return None if row is None else _invitation(row)


async def find_offer(connection: Connection, token_hash: bytes) -> Offer | None:
    """Return the invitation of that hash with what it is to, if it may still be taken."""
    row = await connection.fetchrow(_FIND_OFFER, token_hash)
    if row is None:
        return None
    invitation = _invitation(row)
    offered = await connection.fetchrow(_OFFERED_BY, invitation.org_id, invitation.created_by)
    return None if offered is None else Offer(invitation, organization_in(offered), offered["inviter"])


def _invitation(row: asyncpg.Record) -> Invitation:
    return Invitation(
        id=row["id"],
        org_id=row["org_id"],
        role=Role(row["role"]),
        email=row["email"],
        subject=row["subject"],
        created_by=row["created_by"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
    )

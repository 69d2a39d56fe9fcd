"""That an organisation keeps the people without whom nobody could change it any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentapi.errors import ConflictError
from agentapi.principal import Role
from agentapi.tenancy import store

if TYPE_CHECKING:
    from agentapi.principal import UserId
    from agentapi.storage.database import Connection
    from agentapi.tenancy.models import Organization

__all__ = ["keep_an_admin"]


async def keep_an_admin(connection: Connection, organization: Organization, user_id: UserId) -> None:
    """Refuse to take the role of an admin from the owner or the last one, while the organisation's row is locked.

    Raises:
        ConflictError: It would be taken.
    """
    member = await store.get_member(connection, user_id)
    if member is None or member.removed_at is not None:
        return
    if organization.owner_id == user_id:
        raise ConflictError("The owner stays an admin; transfer the organisation first.")
    is_admin = (member.assigned_role or member.role) is Role.ORG_ADMIN
    if is_admin and not await store.has_other_admins(connection, user_id):
        raise ConflictError("The organisation would have no admin.")

"""The members that an organisation has seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentapi.tenancy import store

if TYPE_CHECKING:
    from agentapi.principal import Principal
    from agentapi.storage.database import Database
    from agentapi.tenancy.models import Member

__all__ = ["MemberDirectory"]

_MAX_TEXT = 320
"""The longest email address (RFC 3696, erratum 1690)."""


class MemberDirectory:
    """Finds members of a principal's organisation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, principal: Principal, text: str) -> list[Member]:
        """Return the members whose user id, subject or email address is ``text``; two at most, since one is wanted."""
        if len(text) > _MAX_TEXT or not text.isprintable():
            return []
        async with self._database.tenant_transaction(principal) as connection:
            return await store.find_members(connection, text)

from __future__ import annotations

from integration.own_server import database, postgres

__all__ = ["database", "postgres"]

"""New names for tools, one to one in both directions.

Invariants:
    * A new name belongs to the tool that was given it: a tool that is called so by itself, and has no new name of its
      own, is out of reach for as long as the policy says so. What a name means therefore never depends on what the
      upstreams list at the moment.
    * Where ``renamed(public)`` is a name, ``original`` of it is ``public``; no two tools share a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Renames"]


class Renames:
    """The new names of a workspace.

    Args:
        new_names: Public name to new name; no new name occurs twice.
    """

    __slots__ = ("_new", "_old")

    def __init__(self, new_names: Mapping[str, str]) -> None:
        self._new = dict(new_names)
        self._old = {new: old for old, new in self._new.items()}
        if len(self._old) != len(self._new):
            raise ValueError("two tools would have one name")

    def renamed(self, public: str) -> str | None:
        """Return what the client sees for the tool ``public``, or None where another tool was given that name."""
        new = self._new.get(public)
        if new is not None:
            return new
        return None if public in self._old else public

    def original(self, name: str) -> str | None:
        """Return the public name of the tool that the client calls ``name``, or None where no tool has that name."""
        old = self._old.get(name)
        if old is not None:
            return old
        return None if name in self._new else name

    def taken_by(self, name: str) -> str | None:
        """Return the public name of the tool that was given ``name``."""
        return self._old.get(name)

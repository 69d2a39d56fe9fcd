"""Entity tags and what requests ask of them (RFC 9110, sections 8.8.3 and 13).

The tag of a thing is the version of its row. A change that names versions with ``If-Match`` is compared with the row
inside the transaction that makes the change, while the row is held, so that of two changes to one version one is made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agentapi.errors import PreconditionFailedError

if TYPE_CHECKING:
    from uuid import UUID

    from starlette.datastructures import Headers
    from starlette.requests import Request

__all__ = ["ANY", "IfMatch", "entity_tag", "if_match", "is_known"]

_TAG: Final = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def entity_tag(version: int, of: UUID | None = None) -> str:
    """Return the entity tag of a version.

    Args:
        version: Counts the changes of a row.
        of: The row, where another one may come to stand at the same address.
    """
    return f'"{version}"' if of is None else f'"{of.hex}-{version}"'


@dataclass(frozen=True, slots=True)
class IfMatch:
    """The versions that a change may be made to; ``tags`` is None where any will do."""

    tags: frozenset[str] | None = None

    def check(self, version: int, of: UUID | None = None) -> None:
        """Refuse a change to ``version`` unless it was named.

        Raises:
            PreconditionFailedError: It was not.
        """
        if self.tags is not None and entity_tag(version, of) not in self.tags:
            raise PreconditionFailedError("It is of another version by now; read it again and repeat the change.")


ANY: Final = IfMatch()
"""No version is asked for."""


def if_match(request: Request) -> IfMatch:
    """Return what a request says of the version that it changes; what is no list of tags matches nothing."""
    given = _field(request.headers, "if-match")
    if given is None or given == "*":
        return ANY
    # A weak tag is good for no comparison of this kind (section 13.1.1).
    return IfMatch(frozenset(tag for weak, tag in _TAG.findall(given) if not weak))


def is_known(headers: Headers, tag: str) -> bool:
    """Return whether ``If-None-Match`` says that the client has what ``tag`` names already."""
    given = _field(headers, "if-none-match")
    return given is not None and (given == "*" or tag.removeprefix("W/") in {known for _, known in _TAG.findall(given)})


def _field(headers: Headers, name: str) -> str | None:
    values = headers.getlist(name)
    return ", ".join(values).strip() if values else None

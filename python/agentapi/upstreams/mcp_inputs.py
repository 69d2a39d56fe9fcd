"""What a ``mcp.json`` of VS Code asks its user for, as the form of an upstream whose users bring their own credential.

A header ``"Authorization": "Bearer ${input:token}"`` becomes a placement, and each input of the file a field.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from agentapi.errors import InvalidRequestError
from agentapi.upstreams.forms import CredentialForm, FieldKind, FormField, Place, Placement
from agentapi.upstreams.headers import carries_credential

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["asks", "declared_inputs", "form_of_headers"]

_INPUT: Final = re.compile(r"\$\{input:([^${}]{1,64})\}")


def asks(headers: object) -> bool:
    """Return whether a header has to be completed by what a user gives."""
    return isinstance(headers, dict) and any(isinstance(value, str) and "${" in value for value in headers.values())


def declared_inputs(text: str | bytes) -> dict[str, dict[str, Any]]:
    """Return the inputs that a file declares, unread, by their ids; the file is one that has been read before."""
    found = json.loads(text).get("inputs")
    entries = found if isinstance(found, list) else []
    return {str(entry["id"]): entry for entry in entries if isinstance(entry, dict) and "id" in entry}


def form_of_headers(label: str, headers: Mapping[str, str], inputs: Mapping[str, Mapping[str, Any]]) -> CredentialForm:
    """Return the form that asks for what ``headers`` name.

    Args:
        label: Of the entry, for complaints.
        headers: All of the entry's.
        inputs: Those that the file declares; one that it does not is asked for by its id.

    Raises:
        InvalidRequestError: A header holds something else than text and inputs.
    """
    ids: dict[str, str] = {}
    placements = []
    for header, value in headers.items():
        pieces = _INPUT.split(value)
        if not carries_credential(header):
            raise InvalidRequestError(f"Entry '{label}': the header '{header[:64]}' cannot carry a credential.")
        if len(pieces) == 1 or any("{" in literal or "}" in literal for literal in pieces[::2]):
            raise InvalidRequestError(
                f"Entry '{label}': beside headers with an ${{input:...}} all headers are text and inputs."
            )
        for id_ in pieces[1::2]:
            ids.setdefault(_name(id_), id_)
            if ids[_name(id_)] != id_:
                raise InvalidRequestError(f"Entry '{label}': the inputs '{id_}' and '{ids[_name(id_)]}' are too alike.")
        template = "".join(f"{{{_name(piece)}}}" if at % 2 else piece for at, piece in enumerate(pieces))
        placements.append((header, template))
    try:
        return CredentialForm(
            fields=tuple(_field(name, id_, inputs.get(id_, {})) for name, id_ in ids.items()),
            placements=tuple(Placement(place=Place.HEADER, name=name, value=value) for name, value in placements),
        )
    except ValidationError:
        raise InvalidRequestError(f"Entry '{label}': its headers ask for too much, or too long.") from None


def _field(name: str, id_: str, declared: Mapping[str, Any]) -> FormField:
    described = declared.get("description")
    label = described if isinstance(described, str) and described else id_
    kind = FieldKind.TEXT if declared.get("password") is False else FieldKind.SECRET
    return FormField(name=name, label=" ".join(label.split())[:100], kind=kind)


def _name(id_: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "_", id_.lower()).strip("_")
    return (slug if slug[:1].isalpha() else f"input_{slug}")[:32]

"""What a user gave for a form: checked, and put where the form says.

No complaint repeats a value or a part of one.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr, ValidationError

from agentapi.errors import FieldError
from agentapi.upstreams.forms import FieldKind, Place, compiled, is_basic, literals_and_fields
from agentapi.upstreams.headers import is_header_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentapi.upstreams.forms import CredentialForm, FormField, Placement

__all__ = ["Placed", "place_values", "value_complaints"]

_MAX_HEADER: Final = 8192
"""Characters of one header: what servers take by habit."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_CONTROL_IN_LINES: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_ENDS_PART: Final = frozenset('",;\\')
"""What ends a part of a header's value in the eyes of its reader (RFC 9110, section 5.6)."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Values where they go, each whole and ready to be sent; query values are not yet encoded."""

    headers: dict[str, SecretStr] = field(default_factory=dict)
    query: dict[str, SecretStr] = field(default_factory=dict)
    environment: dict[str, SecretStr] = field(default_factory=dict)


def value_complaints(form: CredentialForm, values: Mapping[str, SecretStr]) -> Iterator[FieldError]:
    """Yield what is wrong with the values that a user gave, at most one complaint for each field."""
    known = {field.name for field in form.fields}
    for name in values:
        if name not in known:
            yield FieldError(f"/values/{name[:32]}", "The form has no such field.")
    good = True
    for declared in form.fields:
        given = values.get(declared.name)
        complaint = "It is needed." if given is None else _complaint(form, declared, given.get_secret_value())
        if complaint is not None:
            good = False
            yield FieldError(f"/values/{declared.name}", complaint)
    if good:
        for name, value in place_values(form, values).headers.items():
            if len(value.get_secret_value()) > _MAX_HEADER:
                yield FieldError("/values", f"Together they are too long for the header {name}.")


def place_values(form: CredentialForm, values: Mapping[str, SecretStr]) -> Placed:
    """Return the values where ``form`` puts them; they have been checked."""
    placed = Placed()
    targets = {Place.HEADER: placed.headers, Place.QUERY: placed.query, Place.ENVIRONMENT: placed.environment}
    for placement in form.placements:
        targets[placement.place][placement.name] = SecretStr(_rendered(placement.value, values))
    return placed


def _rendered(template: str, values: Mapping[str, SecretStr]) -> str:
    literals, names = literals_and_fields(template)
    parts = [literals[0]]
    for name, literal in zip(names, literals[1:], strict=True):
        parts += (values[name].get_secret_value(), literal)
    text = "".join(parts)
    return f"Basic {base64.b64encode(text.encode()).decode()}" if is_basic(template) else text


def _complaint(form: CredentialForm, declared: FormField, value: str) -> str | None:
    if not declared.min_length <= len(value) <= declared.max_length:
        return f"It has from {declared.min_length} to {declared.max_length} characters."
    in_lines = declared.kind is FieldKind.MULTILINE
    if (_CONTROL_IN_LINES if in_lines else _CONTROL).search(value) is not None:
        return "It holds a control character."
    if not in_lines and value != value.strip():
        return "It begins or ends with a space."
    if declared.pattern is not None:
        try:
            compiled(declared.pattern).validate_python(value)
        except ValidationError:
            return "It does not look like what is asked for."
    for placement in form.placements:
        if placement.place is Place.HEADER:
            complaint = _header_complaint(placement, declared.name, value)
            if complaint is not None:
                return complaint
    return None


def _header_complaint(placement: Placement, name: str, value: str) -> str | None:
    """Return why a value cannot be part of a header without becoming more than its part."""
    literals, names = literals_and_fields(placement.value)
    if name not in names:
        return None
    if is_basic(placement.value):
        return "A user name holds no colon." if names[0] == name and ":" in value else None
    if placement.value == f"{{{name}}}":
        return None if is_header_value(value) else "It holds a character that a header cannot carry."
    if _VISIBLE.fullmatch(value) is None:
        return "It holds a space or a character that a header cannot carry."
    is_last = names.index(name) == len(names) - 1 and not literals[-1] and names.count(name) == 1
    if not is_last and _ENDS_PART & set(value):
        return "It holds a character that would end its part of the header."
    return None

"""The form of a credential that each user brings: its fields, and where each value goes.

The models are what the API takes, what the upstream's row keeps, and what the page shows: one shape at three edges.

Invariants:

* A template is literal text and ``{field}``, or ``basic:{field}:{field}``, and nothing else: it is never a format
  string, and what a user gives is put into it and never read as one.
* A form reaches no header that frames, routes or describes a request, and no variable that decides what a process runs
  or whom it trusts.
* Patterns are matched by the engine of pydantic (Rust's ``regex``), whose time is linear in the text.
"""

from __future__ import annotations

import functools
import re
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter
from pydantic_core import SchemaError

from agentapi.errors import FieldError
from agentapi.upstreams.headers import carries_credential

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = [
    "CredentialForm",
    "FieldKind",
    "FormField",
    "Place",
    "Placement",
    "compiled",
    "form_complaints",
    "is_basic",
    "literals_and_fields",
]

_NAME: Final = r"[a-z][a-z0-9_]{0,31}"
_LINE: Final = r"^[^\x00-\x1f\x7f]*$"
_HTTPS: Final = r"^https://[A-Za-z0-9.-]+(?::[0-9]{1,5})?(?:[/?#][!#-;=?-\[\]_a-z~%]*)?$"
_LITERAL: Final = re.compile(r"[\x20-\x7e]*")
_PLACEHOLDER: Final = re.compile(rf"\{{({_NAME})\}}")
_BASIC: Final = re.compile(rf"basic:\{{({_NAME})\}}:\{{({_NAME})\}}")
_QUERY_NAME: Final = re.compile(r"[A-Za-z0-9._~-]{1,64}")
_VARIABLE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")

_FORBIDDEN_VARIABLES: Final = frozenset(
    {
        "ALL_PROXY", "BASH_ENV", "BROWSER", "CDPATH", "CLASSPATH", "CURL_CA_BUNDLE", "CURL_HOME", "EDITOR", "ENV",
        "FTP_PROXY", "GCONV_PATH", "HOME", "HOSTALIASES", "HTTPS_PROXY", "HTTP_PROXY", "IFS", "JAVA_OPTS",
        "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "LANG", "LANGUAGE", "LOCPATH", "LOGNAME", "NLSPATH", "NO_PROXY",
        "OLDPWD", "PAGER", "PATH", "PWD", "REQUESTS_CA_BUNDLE", "SHELL", "SHELLOPTS", "SSLKEYLOGFILE", "SSL_CERT_DIR",
        "SSL_CERT_FILE", "TEMP", "TERM", "TERMINFO", "TMP", "TMPDIR", "TZDIR", "USER", "VISUAL",
    }
)  # fmt: skip
_FORBIDDEN_PREFIXES: Final = (
    "AGENTAPI_", "BASH_", "BUNDLE_", "BUN_", "COMPLUS_", "CORECLR_", "DENO_", "DOTNET_", "DYLD_", "GEM_", "GIT_",
    "GLIBC_", "LC_", "LD_", "LUA_", "MALLOC_", "NODE_", "NPM_", "OPENSSL_", "PERL", "PHP", "PIP_", "PYTHON", "RES_",
    "RUBY", "SSH_", "UV_", "XDG_", "YARN_",
)  # fmt: skip
"""Variables by which a loader, a shell or a runtime is told what to run, where to write, or whom to trust."""


class Place(StrEnum):
    """Where a value travels."""

    HEADER = "header"
    QUERY = "query"
    ENVIRONMENT = "environment"


class FieldKind(StrEnum):
    """How a field is asked for: hidden, as a line of text, or as lines of text such as a private key."""

    SECRET = "secret"  # noqa: S105 - the name of a kind
    TEXT = "text"
    MULTILINE = "multiline"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class FormField(_Strict):
    """One thing that a user is asked for; lengths count characters."""

    name: Annotated[str, StringConstraints(pattern=f"^{_NAME}$")]
    label: Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=_LINE)]
    kind: FieldKind = FieldKind.SECRET
    pattern: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_LINE)] | None = None
    """What the whole value matches, as a regular expression without look-around."""
    min_length: Annotated[int, Field(ge=1, le=16_384)] = 1
    max_length: Annotated[int, Field(ge=1, le=16_384)] = 4096
    help: Annotated[str, StringConstraints(max_length=500, pattern=_LINE)] = ""
    help_url: Annotated[str, StringConstraints(max_length=2048, pattern=_HTTPS)] | None = None


class Placement(_Strict):
    """Where values go: the name of a header, query parameter or variable, and the template of what it holds."""

    place: Place
    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    value: Annotated[str, StringConstraints(min_length=1, max_length=500)]


class CredentialForm(_Strict):
    """What each user is asked for, and where it goes."""

    fields: Annotated[tuple[FormField, ...], Field(min_length=1, max_length=8)]
    placements: Annotated[tuple[Placement, ...], Field(min_length=1, max_length=8)]


def is_basic(template: str) -> bool:
    """Return whether ``template`` is user name and password of HTTP's Basic scheme (RFC 7617)."""
    return _BASIC.fullmatch(template) is not None


def literals_and_fields(template: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the texts of ``template`` around its fields, one more than there are fields, and their names."""
    parts = (_BASIC if is_basic(template) else _PLACEHOLDER).split(template)
    if is_basic(template):
        return ("", ":", ""), (parts[1], parts[2])
    return tuple(parts[::2]), tuple(parts[1::2])


@functools.lru_cache(maxsize=1024)
def compiled(pattern: str) -> TypeAdapter[str]:
    """Return what validates that a whole text matches ``pattern``.

    Raises:
        SchemaError: It is no pattern, or one whose automaton would be too large.
    """
    return TypeAdapter(Annotated[str, StringConstraints(pattern=rf"\A(?:{pattern})\z")])


def form_complaints(
    form: CredentialForm, *, is_command: bool, endpoint: str | None, variables: Collection[str]
) -> Iterator[FieldError]:
    """Yield what is wrong with a form that no field of it shows alone.

    Args:
        form: As it was declared.
        is_command: Whether the upstream is a stdio command.
        endpoint: Of the upstream, where it is none.
        variables: Those that the platform admin lets users bring to the command.
    """
    yield from _field_complaints(form)
    declared = [field.name for field in form.fields]
    used: set[str] = set()
    taken: set[tuple[Place, str]] = set()
    for at, placement in enumerate(form.placements):
        pointer = f"/credential_form/placements/{at}"
        literals, fields = literals_and_fields(placement.value)
        used |= set(fields)
        key = (placement.place, placement.name.lower())
        if key in taken:
            yield FieldError(f"{pointer}/name", "Two placements have this name.")
        taken.add(key)
        if (placement.place is Place.ENVIRONMENT) is not is_command:
            where = "environment variables" if is_command else "headers and query parameters"
            yield FieldError(f"{pointer}/place", f"This upstream takes credentials in {where}.")
            continue
        name_complaint = _name_complaint(placement, endpoint, variables)
        if name_complaint is not None:
            yield FieldError(f"{pointer}/name", name_complaint)
        value_complaint = _template_complaint(placement, literals, fields, form)
        if value_complaint is not None:
            yield FieldError(f"{pointer}/value", value_complaint)
    for at, name in enumerate(declared):
        if name not in used:
            yield FieldError(f"/credential_form/fields/{at}", "No placement uses this field.")


def _field_complaints(form: CredentialForm) -> Iterator[FieldError]:
    seen: set[str] = set()
    for at, field in enumerate(form.fields):
        pointer = f"/credential_form/fields/{at}"
        if field.name in seen:
            yield FieldError(f"{pointer}/name", "Two fields have this name.")
        seen.add(field.name)
        if field.min_length > field.max_length:
            yield FieldError(f"{pointer}/min_length", "It exceeds 'max_length'.")
        if field.pattern is not None and not _compiles(field.pattern):
            yield FieldError(f"{pointer}/pattern", "This is not a regular expression without look-around.")


def _compiles(pattern: str) -> bool:
    try:
        # By itself first: what closes the group around it and opens another is no pattern of its own.
        TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)])
        compiled(pattern)
    except SchemaError:
        return False
    return True


def _name_complaint(placement: Placement, endpoint: str | None, variables: Collection[str]) -> str | None:
    name = placement.name
    if placement.place is Place.HEADER:
        return None if carries_credential(name) else "This is not a header that can carry a credential."
    if placement.place is Place.QUERY:
        if _QUERY_NAME.fullmatch(name) is None:
            return "A query parameter's name is letters, digits and '._~-'."
        given = {key for key, _ in parse_qsl(urlsplit(endpoint or "").query, keep_blank_values=True)}
        return "The endpoint has this parameter already." if name in given else None
    if _VARIABLE.fullmatch(name) is None or name in _FORBIDDEN_VARIABLES or name.startswith(_FORBIDDEN_PREFIXES):
        return "This is not a variable that can carry a credential."
    if name not in variables:
        allowed = ", ".join(sorted(variables)) or "none"
        return f"The platform admin lets users bring these variables to the command: {allowed}."
    return None


def _template_complaint(  # noqa: PLR0911 - one line a rule
    placement: Placement, literals: tuple[str, ...], fields: tuple[str, ...], form: CredentialForm
) -> str | None:
    if not fields or any("{" in literal or "}" in literal for literal in literals):
        return "A value is text and {field}, with at least one field, or basic:{field}:{field}."
    if placement.value.startswith("basic:") and not is_basic(placement.value):
        return "Write basic:{field}:{field}, with nothing around it."
    if is_basic(placement.value) and placement.place is not Place.HEADER:
        return "Only a header can hold 'basic:'."
    if any(_LITERAL.fullmatch(literal) is None for literal in literals):
        return "The text around the fields is printable ASCII."
    if literals[0] != literals[0].lstrip() or literals[-1] != literals[-1].rstrip():
        return "A value neither begins nor ends with a space."
    kinds = {field.name: field.kind for field in form.fields}
    unknown = [name for name in fields if name not in kinds]
    if unknown:
        return f"There is no field '{unknown[0]}'."
    if placement.place is not Place.ENVIRONMENT and FieldKind.MULTILINE in {kinds[name] for name in fields}:
        return "Lines of text fit into an environment variable alone."
    return None

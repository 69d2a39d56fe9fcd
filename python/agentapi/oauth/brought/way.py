"""Where a connect link leads for an upstream whose users bring their own credential: the upstream's form.

Who is at the browser, and that a form was sent by it, is settled before this is asked (``oauth/connect``). What was
typed into a hidden field is never sent back.
"""

from __future__ import annotations

import html
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from agentapi.errors import AgentAPIError, InvalidRequestError
from agentapi.oauth import pages
from agentapi.oauth.brought.book import form_of
from agentapi.oauth.brought.models import Standing
from agentapi.problems import status_of
from agentapi.upstreams.forms import FieldKind
from agentapi.upstreams.link import Caller

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.responses import Response

    from agentapi.oauth.brought.book import BroughtBook
    from agentapi.oauth.connect.ways import Visit
    from agentapi.principal import Principal
    from agentapi.upstreams.forms import FormField
    from agentapi.upstreams.models import Upstream

__all__ = ["BroughtWay"]

_PREFIX: Final = "field."
"""Stands before the names of the upstream's fields, so that they are not taken for the page's own."""
_ADVICE: Final = (
    "It is tried now, kept sealed, used for your own calls alone, and shown to nobody. If you did not make a call that"
    " needs it, or are somebody else, close this window."
)


class BroughtWay:
    """Asks for a credential and stores it; satisfies ``oauth.connect.ways.Way``.

    Args:
        book: Tries and stores it.
    """

    def __init__(self, book: BroughtBook) -> None:
        self._book = book

    async def is_connected(self, principal: Principal, upstream: Upstream, scopes: tuple[str, ...]) -> bool:
        """Return whether there is a credential that is good; what scopes it has only the upstream knows."""
        del scopes
        report = await self._book.report(Caller(principal.org_id, principal.user_id), upstream)
        return report.standing is Standing.ACTIVE

    async def show(self, visit: Visit) -> Response:
        """Return the empty form."""
        return _page(visit)

    async def submit(self, visit: Visit, form: Mapping[str, str]) -> Response:
        """Try and store what was typed; return the page that says so, or the form again with what is wrong."""
        asked = form_of(visit.upstream).fields
        typed = {field.name: form.get(f"{_PREFIX}{field.name}", "") for field in asked}
        values = {field.name: SecretStr(_as_meant(field, typed[field.name])) for field in asked}
        try:
            await self._book.put(Caller(visit.principal.org_id, visit.principal.user_id), visit.upstream, values)
        except AgentAPIError as error:
            return _page(visit, error, typed)
        return pages.connected(visit.upstream.name)


def _page(visit: Visit, error: AgentAPIError | None = None, typed: Mapping[str, str] | None = None) -> Response:
    complaints = error.fields if isinstance(error, InvalidRequestError) else ()
    wrong = {complaint.pointer.rpartition("/")[2]: complaint.detail for complaint in complaints}
    host = urlsplit(visit.upstream.endpoint or "").netloc
    where = f", a server at {host}, asks" if host else " asks"
    said = f"You are signed in as {visit.name}. {visit.upstream.name}{where} you for a credential of your own."
    if complaints:
        said = " ".join(["Nothing was stored; look at what is said below.", wrong.get("values", "")])
    elif error is not None:
        said = error.message
    fields = (
        _field(field, wrong.get(field.name), (typed or {}).get(field.name, ""))
        for field in form_of(visit.upstream).fields
    )
    return pages.page(
        f"Connect {visit.upstream.name}",
        said,
        _ADVICE,
        status=HTTPStatus.OK if error is None else status_of(error),
        role="presentation" if error is None else "alert",
        form=pages.form(visit.path, visit.csrf, "Connect", fields="".join(fields)),
    )


def _field(field: FormField, wrong: str | None, typed: str) -> str:
    id_ = f"field-{field.name}"
    attributes = f'id="{id_}" name="{_PREFIX}{field.name}" maxlength="{field.max_length}" required'
    attributes += ' autocomplete="off" autocapitalize="none" spellcheck="false"'
    said = [f'<p id="{id_}-wrong" role="alert">{html.escape(wrong)}</p>'] if wrong is not None else []
    described = [f"{id_}-wrong"] if wrong is not None else []
    if wrong is not None:
        attributes += ' aria-invalid="true"'
    if field.help or field.help_url is not None:
        described.append(f"{id_}-help")
        said.append(f'<p id="{id_}-help">{html.escape(field.help)}{_link(field)}</p>')
    if described:
        attributes += f' aria-describedby="{" ".join(described)}"'
    asked = f'<input type="password" {attributes}>'
    if field.kind is FieldKind.MULTILINE:
        asked = f'<textarea rows="8" {attributes}></textarea>'
    elif field.kind is FieldKind.TEXT:
        asked = f'<input type="text" value="{html.escape(typed)}" {attributes}>'
    return f'<label for="{id_}">{html.escape(field.label)}</label>{asked}{"".join(said)}'


def _link(field: FormField) -> str:
    if field.help_url is None:
        return ""
    return f' <a href="{html.escape(field.help_url)}" rel="noopener noreferrer" target="_blank">Where to find it</a>'


def _as_meant(field: FormField, typed: str) -> str:
    """Return what was typed with the line ends that it had: browsers send CR LF (HTML, section 4.10.22)."""
    return typed.replace("\r\n", "\n") if field.kind is FieldKind.MULTILINE else typed

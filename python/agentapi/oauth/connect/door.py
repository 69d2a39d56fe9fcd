"""What the pages for one person at a browser have in common: what they were sent, and how one gets in and out.

Invariants:

* A page leads on to itself, or to an issuer of the deployment's settings, and nowhere else.
* What a form says counts once it is certain that this browser was given it, for this link.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from starlette.responses import RedirectResponse

from agentapi.errors import AgentAPIError, InvalidRequestError, UnsupportedMediaTypeError
from agentapi.oauth import pages
from agentapi.oauth.connect.browser import set_cookie
from agentapi.oauth.flow import Answer
from agentapi.oauth.routes import COOKIE
from agentapi.problems import status_of
from agentapi.request_body import read_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from agentapi.oauth.connect.browser import Browsers, SignedIn
    from agentapi.oauth.connect.sign_in import SignIns

__all__ = ["Door", "back_to"]

_SIGN_IN: Final = "__Host-agentapi-sign-in"
_MAX_FORM_BYTES: Final = 64 * 1024
_MAX_FIELDS: Final = 64
_FORM_TYPE: Final = "application/x-www-form-urlencoded"


class Door:
    """Lets people in and out.

    Args:
        browsers: Know browsers again.
        sign_ins: Sign people in.
    """

    def __init__(self, browsers: Browsers, sign_ins: SignIns) -> None:
        self._browsers = browsers
        self._sign_ins = sign_ins

    async def page(
        self, request: Request, step: Callable[[str], Awaitable[Response]], refused: Callable[[int, str], Response]
    ) -> Response:
        """Return what ``step`` makes of the browser's own cookie, or what ``refused`` makes of status and reason."""
        browser = self._browsers.own_cookie(request)
        try:
            response = await step(browser)
        except AgentAPIError as error:
            response = refused(status_of(error), error.message)
        set_cookie(response, COOKIE, browser)
        return response

    async def form(self, request: Request, link: str) -> dict[str, str]:
        """Return the fields of a form that this browser was given on the page behind the link of that id.

        Raises:
            ForbiddenError: It was not given it.
            AgentAPIError: It is no form.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        body = await read_body(request.scope, request.receive, max_bytes=_MAX_FORM_BYTES)
        if kind != _FORM_TYPE:
            raise UnsupportedMediaTypeError("The form could not be read.")
        try:
            fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
        except ValueError:
            raise InvalidRequestError("The form could not be read.") from None
        form = dict(fields)
        if len(form) != len(fields):
            raise InvalidRequestError("The form could not be read.")
        self._browsers.check_form(request, link, form.pop("csrf", None))
        return form

    async def to_issuer(self, issuer: str, path: str) -> Response:
        """Return the page that leads to where people of ``issuer`` sign in, and then back to ``path``.

        Raises:
            AuthorizationServerError: The issuer cannot be found.
        """
        started = await self._sign_ins.start(issuer, path)
        response = pages.going_on(started.url)
        set_cookie(response, _SIGN_IN, started.cookie)
        return response

    async def come_back(self, request: Request) -> Response:
        """Return what the browser is shown that an issuer sent back: the page that it left, or why not."""
        query = request.query_params
        once = {name: values[0] for name in query if len(values := query.getlist(name)) == 1}
        answer = Answer(state=once.get("state"), code=once.get("code"), error=once.get("error"), issuer=once.get("iss"))
        try:
            who, path = await self._sign_ins.finish(answer, request.cookies.get(_SIGN_IN))
        except AgentAPIError as error:
            return pages.not_signed_in(status_of(error), error.message)
        response = self.let_in(who, path)
        set_cookie(response, _SIGN_IN, "", max_age_s=0)
        return response

    def let_in(self, who: SignedIn, path: str) -> Response:
        """Return what leads to ``path`` and has the browser know who is in front of it."""
        response = back_to(path)
        self._browsers.sign_in(response, who)
        return response

    def let_out(self, path: str) -> Response:
        """Return what leads to ``path`` and has the browser forget who was in front of it."""
        response = back_to(path)
        self._browsers.sign_out(response)
        return response


def back_to(path: str) -> Response:
    """Return what leads from a form to a page, so that it can be loaded again."""
    return RedirectResponse(path, 303, {"Referrer-Policy": "no-referrer", "Cache-Control": "no-store"})

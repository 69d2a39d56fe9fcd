"""``/connect/{id}``: the page behind the link that a call answers with.

Invariants:

* Nothing happens before the one at the browser has shown to be the one who asked: the same user, and in the same
  organisation where what was shown names one. Everybody else is told that the link is not for them, and no more.
* They are admitted anew each time: a link is good for as long as its owner is a member, with the role of then.
* Nothing happens by opening the link alone: what changes something is a form that was made for this browser.
* No address that the page leads to comes from the request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from agentapi.errors import AgentAPIError, ForbiddenError, NotFoundError
from agentapi.identity.permissions import Permission, require
from agentapi.oauth import pages
from agentapi.oauth.connect.sign_in import SIGNED_IN_PATH, By
from agentapi.oauth.connect.tickets import CONNECT_PATH
from agentapi.oauth.connect.ways import Visit
from agentapi.problems import status_of
from agentapi.upstreams import store as upstream_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from agentapi.oauth.connect.browser import Browsers, SignedIn
    from agentapi.oauth.connect.door import Door
    from agentapi.oauth.connect.links import Links
    from agentapi.oauth.connect.sign_in import SignIns
    from agentapi.oauth.connect.tickets import Ticket, Tickets
    from agentapi.oauth.connect.ways import Way
    from agentapi.principal import Principal
    from agentapi.storage.database import Database
    from agentapi.tenancy.admission import Admission
    from agentapi.upstreams.models import Upstream

__all__ = ["ConnectRoutes"]


class ConnectRoutes:
    """The connect page and the sign-in before it.

    Args:
        database: Where upstreams are.
        tickets: Open the ids.
        door: Lets people in and out.
        browsers: Know browsers again.
        sign_ins: Sign people in.
        links: Know where each kind of upstream leads.
        admission: Knows who is a member still.
    """

    def __init__(
        self,
        *,
        database: Database,
        tickets: Tickets,
        door: Door,
        browsers: Browsers,
        sign_ins: SignIns,
        links: Links,
        admission: Admission,
    ) -> None:
        self._database = database
        self._tickets = tickets
        self._door = door
        self._browsers = browsers
        self._sign_ins = sign_ins
        self._links = links
        self._admission = admission

    def routes(self) -> list[Route]:
        """Return the routes, for the application to mount."""
        one = f"{CONNECT_PATH}/{{id}}"
        return [
            Route(SIGNED_IN_PATH, self.signed_in, methods=["GET"]),
            Route(one, self.show, methods=["GET"]),
            Route(one, self.submit, methods=["POST"]),
            Route(f"{one}/sign-in", self.sign_in, methods=["POST"]),
            Route(f"{one}/sign-out", self.sign_out, methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        """``GET /connect/{id}``: sign in, or see what is about to happen."""
        return await self._page(request, self._show)

    async def submit(self, request: Request) -> Response:
        """``POST /connect/{id}``: go on to where the account is connected."""
        return await self._page(request, self._submit)

    async def sign_in(self, request: Request) -> Response:
        """``POST /connect/{id}/sign-in``: at the issuer, or with the token in the form."""
        return await self._page(request, self._sign_in)

    async def sign_out(self, request: Request) -> Response:
        """``POST /connect/{id}/sign-out``: for whoever is signed in as somebody else."""
        return await self._page(request, self._sign_out)

    async def signed_in(self, request: Request) -> Response:
        """``GET /connect/signed-in``: where an issuer sends the browser back to, whichever page it came from."""
        return await self._door.come_back(request)

    async def _page(self, request: Request, step: Callable[[Request, Ticket, str], Awaitable[Response]]) -> Response:
        """Return what ``step`` makes of the ticket in the address; an error is a page too."""

        async def made(browser: str) -> Response:
            return await step(request, self._tickets.open(request.path_params["id"]), browser)

        return await self._door.page(request, made, pages.not_connected)

    async def _show(self, request: Request, ticket: Ticket, browser: str) -> Response:
        sealed = request.path_params["id"]
        csrf = self._browsers.form_token(browser, sealed)
        who = self._browsers.signed_in(request)
        path = f"{CONNECT_PATH}/{sealed}"
        if who is None:
            return self._ask(ticket, path=path, csrf=csrf)
        if not _is_owner(who, ticket):
            return pages.somebody_else(who.name, path=f"{path}/sign-out", csrf=csrf)
        way, visit = await self._visit(ticket, who, browser, path=path, csrf=csrf)
        if await self._links.is_connected(visit.principal, visit.upstream, visit.scopes):
            return pages.connected(visit.upstream.name)
        return await way.show(visit)

    async def _submit(self, request: Request, ticket: Ticket, browser: str) -> Response:
        sealed, form = await self._form(request)
        who = self._browsers.signed_in(request)
        if who is None or not _is_owner(who, ticket):
            raise ForbiddenError("You are not signed in as the one whom this link is for. Open it again.")
        csrf = self._browsers.form_token(browser, sealed)
        way, visit = await self._visit(ticket, who, browser, path=f"{CONNECT_PATH}/{sealed}", csrf=csrf)
        if await self._links.is_connected(visit.principal, visit.upstream, visit.scopes):
            return pages.connected(visit.upstream.name)
        return await way.submit(visit, form)

    async def _sign_in(self, request: Request, ticket: Ticket, browser: str) -> Response:
        sealed, form = await self._form(request)
        by, path = self._sign_ins.by(ticket), f"{CONNECT_PATH}/{sealed}"
        if by is By.ISSUER:
            return await self._door.to_issuer(ticket.principal.issuer, path)
        csrf = self._browsers.form_token(browser, sealed)
        if by is By.NOTHING:
            return self._ask(ticket, path=path, csrf=csrf)
        try:
            who = await self._sign_ins.with_token(ticket, form.get("token", ""))
        except AgentAPIError as error:
            return self._ask(ticket, path=path, csrf=csrf, error=error)
        return self._door.let_in(who, path)

    def _ask(self, ticket: Ticket, *, path: str, csrf: str, error: AgentAPIError | None = None) -> Response:
        """Return the page that asks who is there, with what was wrong the last time."""
        by = self._sign_ins.by(ticket)
        if by is By.NOTHING:
            said = "An account is to be connected, and this gateway has no way for you to show that it is yours."
            return pages.no_sign_in(said, (ticket.principal.issuer,))
        status, wrong = (200, "") if error is None else (status_of(error), error.message)
        return pages.sign_in(path=f"{path}/sign-in", csrf=csrf, at_issuer=by is By.ISSUER, wrong=wrong, status=status)

    async def _sign_out(self, request: Request, ticket: Ticket, _: str) -> Response:
        del ticket
        sealed, _form = await self._form(request)
        return self._door.let_out(f"{CONNECT_PATH}/{sealed}")

    async def _form(self, request: Request) -> tuple[str, dict[str, str]]:
        """Return the ticket's id and the fields of a form that this browser was given for it."""
        sealed = request.path_params["id"]
        return sealed, await self._door.form(request, sealed)

    async def _visit(self, ticket: Ticket, who: SignedIn, browser: str, *, path: str, csrf: str) -> tuple[Way, Visit]:
        principal = await self._admission.again(ticket.principal)
        require(principal, Permission.CONNECTIONS_OWN)
        upstream = await self._upstream(principal, ticket)
        way = self._links.ways.get(upstream.auth)
        if way is None:
            raise NotFoundError(f"Upstream '{upstream.name}' takes no connections of users any more.")
        visit = Visit(
            principal=principal,
            name=who.name,
            upstream=upstream,
            scopes=ticket.scopes,
            browser=browser,
            path=path,
            csrf=csrf,
        )
        return way, visit

    async def _upstream(self, principal: Principal, ticket: Ticket) -> Upstream:
        async with self._database.tenant_transaction(principal) as connection:
            return await upstream_store.get_upstream(connection, ticket.upstream_id)


def _is_owner(who: SignedIn, ticket: Ticket) -> bool:
    owner = ticket.principal
    return who.user_id == owner.user_id and who.org_id in {None, owner.org_id}

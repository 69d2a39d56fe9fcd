"""``/join/{token}``: the page behind the link of an invitation.

Invariants:

* Nothing changes by opening the link, whoever opens it: programs that look at links before people do among them. What
  accepts is a form that was made for this browser and this link, sent by somebody who is signed in.
* Whoever has a link that is good is told what it is for. All others are told the same, whatever the reason, and
  nothing of any organisation but one that they are in.
* Who may accept is decided where it is done, by what ``POST /api/v1/invitations/accept`` asks as well.
* No address that the page leads to comes from the request, and no log line or other site is told the token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from agentapi.errors import AgentAPIError, ForbiddenError, NotFoundError
from agentapi.oauth.connect.door import back_to
from agentapi.oauth.join import pages
from agentapi.problems import status_of
from agentapi.tenancy.routes import JOIN_PATH

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from agentapi.oauth.connect.browser import Browsers, SignedIn
    from agentapi.oauth.connect.door import Door
    from agentapi.oauth.connect.sign_in import SignIns
    from agentapi.tenancy.invitations.book import Invitations
    from agentapi.tenancy.models import Offer

__all__ = ["JoinRoutes"]


class JoinRoutes:
    """The page of an invitation and the sign-in before it.

    Args:
        invitations: Let in who was invited.
        door: Lets people in and out.
        browsers: Know browsers again.
        sign_ins: Sign people in.
        public_url: Where the gateway is, without a slash at its end.
    """

    def __init__(
        self, *, invitations: Invitations, door: Door, browsers: Browsers, sign_ins: SignIns, public_url: str
    ) -> None:
        self._invitations = invitations
        self._door = door
        self._browsers = browsers
        self._sign_ins = sign_ins
        self._public_url = public_url

    def routes(self) -> list[Route]:
        """Return the routes, for the application to mount."""
        one = f"{JOIN_PATH}/{{token}}"
        return [
            Route(one, self.show, methods=["GET"]),
            Route(one, self.submit, methods=["POST"]),
            Route(f"{one}/sign-in", self.sign_in, methods=["POST"]),
            Route(f"{one}/sign-out", self.sign_out, methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        """``GET /join/{token}``: sign in, or see what one would accept, or has accepted."""
        return await self._page(request, self._show)

    async def submit(self, request: Request) -> Response:
        """``POST /join/{token}``: accept."""
        return await self._page(request, self._submit)

    async def sign_in(self, request: Request) -> Response:
        """``POST /join/{token}/sign-in``: at an issuer, or with the token in the form."""
        return await self._page(request, self._sign_in)

    async def sign_out(self, request: Request) -> Response:
        """``POST /join/{token}/sign-out``: for whoever is signed in as somebody else."""
        return await self._page(request, self._sign_out)

    async def _page(self, request: Request, step: Callable[[Request, str, str], Awaitable[Response]]) -> Response:
        """Return what ``step`` makes of the link's token and the browser's cookie; an error is a page too."""

        async def made(browser: str) -> Response:
            return await step(request, request.path_params["token"], browser)

        return await self._door.page(request, made, pages.not_joined)

    async def _show(self, request: Request, token: str, browser: str) -> Response:
        who = self._browsers.signed_in(request)
        offer = await self._invitations.offer(token)
        if offer is None:
            return await self._without_offer(token, who)
        path, csrf = f"{JOIN_PATH}/{token}", self._browsers.form_token(browser, token)
        if who is None:
            return self._ask(offer, path=path, csrf=csrf)
        if not offer.is_for(who.claimant):
            return pages.not_for_you(offer, who, path=path, csrf=csrf)
        now = await self._invitations.joined(who.claimant, token)
        return pages.accept(offer, who, now, path=path, csrf=csrf)

    async def _submit(self, request: Request, token: str, browser: str) -> Response:
        await self._door.form(request, token)
        who = self._browsers.signed_in(request)
        if who is None:
            raise ForbiddenError("You are not signed in any more. Open the link again.")
        offer = await self._invitations.offer(token)
        if offer is not None and not offer.is_for(who.claimant):
            csrf = self._browsers.form_token(browser, token)
            return pages.not_for_you(offer, who, path=f"{JOIN_PATH}/{token}", csrf=csrf)
        try:
            await self._invitations.accept(who.claimant, token)
        except NotFoundError:
            # Somebody else was faster, or this person sent the form twice.
            return await self._without_offer(token, who)
        return back_to(f"{JOIN_PATH}/{token}")

    async def _sign_in(self, request: Request, token: str, browser: str) -> Response:
        form = await self._door.form(request, token)
        offer = await self._invitations.offer(token)
        if offer is None:
            return await self._without_offer(token, None)
        path, means = f"{JOIN_PATH}/{token}", self._sign_ins.means(offer.organization.slug)
        issuer = form.get("issuer", "")
        if issuer in means.issuers:
            return await self._door.to_issuer(issuer, path)
        csrf = self._browsers.form_token(browser, token)
        if not means.token:
            return self._ask(offer, path=path, csrf=csrf)
        try:
            who = await self._sign_ins.with_own_token(form.get("token", ""))
        except AgentAPIError as error:
            return self._ask(offer, path=path, csrf=csrf, error=error)
        return self._door.let_in(who, path)

    async def _sign_out(self, request: Request, token: str, _: str) -> Response:
        await self._door.form(request, token)
        return self._door.let_out(f"{JOIN_PATH}/{token}")

    def _ask(self, offer: Offer, *, path: str, csrf: str, error: AgentAPIError | None = None) -> Response:
        """Return the page that asks who is there, with what was wrong the last time."""
        means = self._sign_ins.means(offer.organization.slug)
        status, wrong = (200, "") if error is None else (status_of(error), error.message)
        return pages.sign_in(offer, means, path=f"{path}/sign-in", csrf=csrf, wrong=wrong, status=status)

    async def _without_offer(self, token: str, who: SignedIn | None) -> Response:
        """Return the page of a link that is not good; who is in its organisation is told what to do next instead."""
        place = None if who is None else await self._invitations.joined(who.claimant, token)
        if place is None or who is None:
            return pages.no_offer()
        return pages.joined(place, who, public_url=self._public_url)

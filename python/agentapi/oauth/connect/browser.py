"""What a browser is known by: its own cookie, who signed in with it, and the token that its forms carry.

Invariants:

* Every cookie is ``__Host-``: of this origin alone, sent over a secure connection, out of reach of scripts. Those that
  say something are sealed and expire by themselves.
* A form counts if it carries the token that was made for this browser and this link, and if the browser does not say
  that another site sent it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from agentapi._core import SealError
from agentapi.errors import ForbiddenError
from agentapi.oauth.flow import TTL_S
from agentapi.oauth.routes import COOKIE
from agentapi.principal import OrgId
from agentapi.tenancy.models import Claimant

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from starlette.requests import Request
    from starlette.responses import Response

    from agentapi._core import Keyring
    from agentapi.principal import UserId

__all__ = ["Browsers", "SignedIn", "set_cookie"]

_SESSION: Final = "__Host-agentapi-session"
_SESSION_AAD: Final = b"connect.signed_in"
_CSRF_AAD: Final = b"connect.form"
_OWN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_MAX_LENGTH: Final = 4096
_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who has shown who they are with this browser, a few minutes ago."""

    claimant: Claimant
    org_id: OrgId | None = None
    """The one organisation that the proof was for, if it was for one."""

    @property
    def user_id(self) -> UserId:
        """The person's id, wherever they are a member."""
        return self.claimant.user_id

    @property
    def name(self) -> str:
        """What the person is called, for them to see."""
        return self.claimant.email or self.claimant.subject


class Browsers:
    """Knows browsers again.

    Args:
        keyring: Seals what they keep.
        clock: The time, with its zone.
    """

    def __init__(self, keyring: Keyring, clock: Callable[[], datetime]) -> None:
        self._keyring = keyring
        self._clock = clock

    def own_cookie(self, request: Request) -> str:
        """Return the browser's own cookie, a new one if it has none; ``OAuthRoutes.init`` and flows know it too."""
        given = request.cookies.get(COOKIE, "")
        return given if _OWN.fullmatch(given) else secrets.token_urlsafe(_SECRET_BYTES)

    def signed_in(self, request: Request) -> SignedIn | None:
        """Return who signed in with this browser."""
        sealed = request.cookies.get(_SESSION, "")
        try:
            opened = self._keyring.open_text_unexpired(sealed[:_MAX_LENGTH], _SESSION_AAD, self._now())
        except SealError:
            return None
        found = json.loads(opened)
        org_id = found["org"]
        claimant = Claimant(found["issuer"], found["subject"], found["email"], found["organization"])
        return SignedIn(claimant, None if org_id is None else OrgId(UUID(org_id)))

    def sign_in(self, response: Response, who: SignedIn) -> None:
        """Let the browser show for a few minutes who is in front of it."""
        org_id = None if who.org_id is None else str(who.org_id)
        document = {**asdict(who.claimant), "org": org_id}
        plaintext = json.dumps(document, ensure_ascii=False).encode()
        sealed = self._keyring.seal_text_until(plaintext, _SESSION_AAD, self._now() + TTL_S)
        set_cookie(response, _SESSION, sealed)

    def sign_out(self, response: Response) -> None:
        """Let the browser forget who was in front of it."""
        set_cookie(response, _SESSION, "", max_age_s=0)

    def form_token(self, browser: str, link: str) -> str:
        """Return what a form of this browser carries on the page behind the link of that id."""
        return self._keyring.seal_text_until(_digest(browser, link), _CSRF_AAD, self._now() + TTL_S)

    def check_form(self, request: Request, link: str, token: str | None) -> None:
        """Refuse a form that this browser was not given.

        Raises:
            ForbiddenError: It was not, or too long ago.
        """
        refused = ForbiddenError("This page is too old, or the form comes from elsewhere. Open the link again.")
        browser = request.cookies.get(COOKIE, "")
        # Browsers that say nothing are held by the token alone.
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin" or not _OWN.fullmatch(browser):
            raise refused
        try:
            opened = self._keyring.open_text_unexpired((token or "")[:_MAX_LENGTH], _CSRF_AAD, self._now())
        except SealError:
            raise refused from None
        if not hmac.compare_digest(opened, _digest(browser, link)):
            raise refused

    def _now(self) -> int:
        return int(self._clock().timestamp())


def set_cookie(response: Response, name: str, value: str, *, max_age_s: int = TTL_S) -> None:
    """Set a cookie of this origin alone; it comes back when another site's link or redirect leads here."""
    response.set_cookie(name, value, max_age=max_age_s, path="/", secure=True, httponly=True, samesite="lax")


def _digest(browser: str, link: str) -> bytes:
    return hashlib.sha256(f"{browser}/{link}".encode()).digest()

"""What somebody reads who follows the link of an invitation; made of ``oauth/pages.py``."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from agentapi.oauth import pages
from agentapi.principal import Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.responses import HTMLResponse

    from agentapi.oauth.connect.browser import SignedIn
    from agentapi.oauth.connect.sign_in import Means
    from agentapi.tenancy.models import Joined, Offer

__all__ = ["accept", "joined", "no_offer", "not_for_you", "not_joined", "sign_in"]

_ROLES: Final[Mapping[Role, str]] = {
    Role.PLATFORM_ADMIN: "an administrator of this deployment",
    Role.ORG_ADMIN: "an administrator",
    Role.MEMBER: "a member",
    Role.VIEWER: "a viewer",
    Role.AGENT: "an agent",
}
_IF_UNEXPECTED: Final = "If you expect no invitation, close this window: nothing changes by opening this page."
_ELSE: Final = "Sign in as somebody else"


def sign_in(offer: Offer, means: Means, *, path: str, csrf: str, wrong: str = "", status: int = 200) -> HTMLResponse:
    """Return the page that tells of the invitation and asks who is there.

    Args:
        offer: What the link is good for.
        means: What its reader can show who they are by.
        path: Where the forms are posted to.
        csrf: What shows that this browser was given them.
        wrong: What was wrong the last time.
        status: The HTTP status.
    """
    if not means.issuers and not means.token:
        return pages.no_sign_in(f"{_told(offer)} This gateway has no way for you to show who you are.", means.others)
    forms = [_at_issuer(issuer, path=path, csrf=csrf) for issuer in means.issuers]
    advice = "Sign in as you always do to see whether it is for you, and to accept it."
    if means.token:
        forms.append(pages.token_form(path, csrf))
        shown = "an access token for this gateway, which is not kept."
        advice = f"{advice} Or show {shown}" if means.issuers else f"To show who you are, enter {shown}"
    if wrong:
        return pages.page(
            _title(offer), wrong, f"{_told(offer)} {advice}", status=status, role="alert", form="".join(forms)
        )
    return pages.page(_title(offer), _told(offer), f"{advice} {_IF_UNEXPECTED}", form="".join(forms))


def accept(offer: Offer, who: SignedIn, now: Joined | None, *, path: str, csrf: str) -> HTMLResponse:
    """Return the page that says who would become what, with a button that does it.

    Args:
        offer: What the link is good for.
        who: Is signed in.
        now: Their place in the organisation, if they have one already.
        path: The page's own.
        csrf: What shows that this browser was given its forms.
    """
    role = _ROLES[offer.invitation.role]
    changes = f" You are {_ROLES[now.role]} there now, and would be {role} instead." if now is not None else ""
    return pages.page(
        _title(offer),
        f"You are signed in as {who.name}. {_told(offer)}{changes}",
        f"If you accept, you are {role} there, and its administrators see who you are. {_IF_UNEXPECTED}",
        form=pages.form(path, csrf, "Accept the invitation") + pages.form(f"{path}/sign-out", csrf, _ELSE),
    )


def not_for_you(offer: Offer, who: SignedIn, *, path: str, csrf: str) -> HTMLResponse:
    """Return the page for whoever is signed in as somebody whom the invitation is not good for."""
    slug = offer.organization.slug
    if who.claimant.organization == slug:
        said = f"You are signed in as {who.name}, and the invitation is for {_whom(offer)}."
        advice = "Sign in as that person; an e-mail address counts only if your issuer has verified it."
    else:
        said = f"You are signed in as {who.name}, and your sign-in does not name the organisation {slug} as yours."
        advice = (
            "Sign in with the account that belongs there. If this is the one, tell the person who invited you:"
            f" the issuer has to name {slug}, as docs/how-to/organizations.md says."
        )
    out = pages.form(f"{path}/sign-out", csrf, _ELSE)
    return pages.page("This invitation is not for you", said, advice, status=403, role="alert", form=out)


def joined(place: Joined, who: SignedIn, *, public_url: str) -> HTMLResponse:
    """Return the page for somebody who is in the organisation: what to do next."""
    organization = place.organization
    listed = [f"{public_url}/mcp/{organization.slug}/{workspace.slug}" for workspace in place.workspaces]
    if not listed:
        advice = "It has no workspace yet. An administrator makes one; its address is what your MCP client needs."
    elif len(listed) == 1:
        advice = "This is the address to give to your MCP client, which signs you in there:"
    else:
        advice = "Give your MCP client the address of the workspace that you need; it signs you in there:"
    said = f"You are signed in as {who.name}, and are {_ROLES[place.role]} of {organization.name}."
    return pages.page(f"You are in {organization.name}", said, advice, role="status", listed=listed)


def no_offer() -> HTMLResponse:
    """Return the page of a link that is not good, for whatever reason."""
    return pages.page(
        "This link is not good",
        "The invitation was accepted already, was taken back, is too old, or was never made.",
        "Ask the person who sent you the link for a new one.",
        status=404,
        role="alert",
    )


def not_joined(status: int, reason: str) -> HTMLResponse:
    """Return the page of a failure."""
    advice = "Nothing was changed. If it fails again, tell the person who invited you what it says here."
    return pages.page("Not joined", reason, advice, status=status, role="alert")


def _at_issuer(issuer: str, *, path: str, csrf: str) -> str:
    host = urlsplit(issuer).netloc or issuer
    field = f'<input type="hidden" name="issuer" value="{html.escape(issuer)}">'
    return pages.form(path, csrf, f"Sign in at {host}", fields=field)


def _title(offer: Offer) -> str:
    return f"Invitation to {offer.organization.name}"


def _told(offer: Offer) -> str:
    """Return who is invited to what by whom, and as what."""
    organization, inviter = offer.organization, offer.inviter or "An administrator"
    name, slug = organization.name, organization.slug
    named = name if name == slug else f"{name} ({slug})"
    invited = offer.invitation.email or offer.invitation.subject
    return f"{inviter} invites {invited or 'you'} to {named} as {_ROLES[offer.invitation.role]}."


def _whom(offer: Offer) -> str:
    return offer.invitation.email or offer.invitation.subject or "somebody else"

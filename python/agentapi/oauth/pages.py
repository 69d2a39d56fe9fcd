"""The pages that a browser meets on its way: plain HTML without script, framed by nobody.

Written with ``string.Template`` and ``html.escape``: a few short pages do not need a template engine. A form is posted
to the gateway alone, and a page that leads elsewhere does so with a link that is followed by itself, since browsers
hold the answer to a form to the same rule as its address.
"""

from __future__ import annotations

import base64
import hashlib
import html
from string import Template
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from starlette.responses import HTMLResponse

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "connect",
    "connected",
    "form",
    "going_on",
    "no_outcome",
    "no_sign_in",
    "not_connected",
    "not_signed_in",
    "page",
    "sign_in",
    "somebody_else",
    "token_form",
]

_STYLE: Final = (
    ":root{color-scheme:light dark}body{font:1.125rem/1.5 system-ui,sans-serif;margin:12vh auto;max-width:34rem;"
    "padding:0 1.5rem;overflow-wrap:anywhere}h1{font-size:1.6rem}"
    "button,input,textarea{font:inherit;padding:.5rem .8rem;box-sizing:border-box}"
    "input,textarea{width:100%}label{display:block;margin:.8rem 0 .2rem}button{margin-top:.8rem}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

_PAGE: Final = Template(
    "<!doctype html>\n"
    '<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">$head'
    "<title>$title</title><style>" + _STYLE + "</style></head>\n"
    '<body><main><h1>$title</h1><p role="$role">$said</p><p>$advice</p>$listed$form</main></body></html>\n'
)
_FORM: Final = Template(
    '<form method="post" action="$path"><input type="hidden" name="csrf" value="$csrf">$fields'
    '<button type="submit">$button</button></form>'
)

_HEADERS: Final = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # The address of the callback holds the code.
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def connected(upstream: str) -> HTMLResponse:
    """Return the page of a success."""
    return page(
        "Connected", f"Your account is connected to {upstream}.", "You can close this window and go on.", role="status"
    )


def not_connected(status: int, reason: str) -> HTMLResponse:
    """Return the page of a failure: what happened, in words for the one who reads it, and what to do."""
    advice = "Nothing was connected. Go back to where you came from and begin again; if it fails again, tell the person"
    advice = f"{advice} who runs this gateway what it says here."
    return page("Not connected", reason, advice, status=status, role="alert")


def not_signed_in(status: int, reason: str) -> HTMLResponse:
    """Return the page of a sign-in that came to nothing."""
    advice = "Nothing was changed. If it fails again, tell the person who runs this gateway what it says here."
    return page("Not signed in", reason, advice, status=status, role="alert")


def no_outcome(status: int, reason: str) -> HTMLResponse:
    """Return the page of a success that is not one any more, or of which nothing is known any more."""
    return page("Not connected now", reason, "Make the call again: it says whether you have to connect.", status=status)


def connect(
    upstream: str, name: str, *, host: str, server: str, scopes: tuple[str, ...], path: str, csrf: str
) -> HTMLResponse:
    """Return the page that asks whether to go on to where an account is connected.

    Args:
        upstream: Its name, which whoever registered it chose.
        name: Of the person.
        host: The upstream's, which will use the account.
        server: The host of the authorization server, which the upstream chose if nobody else did: that the two belong
            together is for the person to see.
        scopes: Needed besides those that a connection has already.
        path: Where the form is posted to.
        csrf: What shows that this browser was given it.
    """
    more = f" It asks for more than before: {', '.join(scopes)}." if scopes else ""
    return page(
        f"Connect an account to {upstream}",
        f"You are signed in as {name}. A call of yours needs an account of yours at {upstream}, a server at {host}."
        f" You are asked for it at {server}, and {host} may use it from then on.{more}",
        f"If you did not make such a call, are somebody else, or do not trust {host} with an account at {server},"
        " close this window.",
        form=form(path, csrf, "Continue"),
    )


def sign_in(*, path: str, csrf: str, at_issuer: bool, wrong: str = "", status: int = 200) -> HTMLResponse:
    """Return the page that asks who is there: at their issuer, or with a token that they have.

    Args:
        path: Where the form is posted to.
        csrf: What shows that this browser was given it.
        at_issuer: Which of the two.
        wrong: What was wrong the last time.
        status: The HTTP status.
    """
    said = "A call through this gateway needs an account to be connected. Only the one who made it can do that."
    if at_issuer:
        return page("Sign in to connect", said, "Sign in as you always do.", form=form(path, csrf, "Sign in"))
    advice = "To show that this is you, enter the access token that your client uses for this gateway. It is not kept."
    role = "alert" if wrong else "presentation"
    asked = token_form(path, csrf)
    return page("Sign in to connect", wrong or said, advice, status=status, role=role, form=asked)


def no_sign_in(said: str, issuers: Sequence[str]) -> HTMLResponse:
    """Return the page for people who have no way to show who they are, and for the administrator whom they ask.

    Args:
        said: What they came for.
        issuers: Of their tokens, as far as that is known.
    """
    where = " or ".join(issuers) or "an issuer whose tokens name the organisation"
    return page(
        "Signing in is not set up",
        said,
        f"An administrator has to register the gateway at {where} and set 'sign_in' of that issuer in"
        " AGENTAPI_ISSUERS, as docs/how-to/oauth.md says; or set AGENTAPI_CONNECT_WITH_TOKEN, so that people show an"
        " access token here. Then open the link again.",
        status=503,
        role="alert",
    )


def somebody_else(name: str, *, path: str, csrf: str) -> HTMLResponse:
    """Return the page for whoever follows a link that was made for another."""
    return page(
        "This link is for somebody else",
        f"You are signed in as {name}, and the call that this link belongs to was made by somebody else.",
        "If somebody sent you this link, close this window: it would connect an account of yours to what they do.",
        status=403,
        role="alert",
        form=form(path, csrf, "Sign in as somebody else"),
    )


def going_on(url: str) -> HTMLResponse:
    """Return the page that leads to another site, by itself where the browser lets it."""
    there = html.escape(url)
    host = html.escape(urlsplit(url).netloc)
    text = _PAGE.substitute(
        head=f'<meta http-equiv="refresh" content="0;url={there}">',
        title="Going on",
        role="status",
        said=f"You are being taken to {host}.",
        advice=f'<a href="{there}">Continue to {host}</a>',
        listed="",
        form="",
    )
    return HTMLResponse(text, headers={**_HEADERS, "Content-Security-Policy": _policy(form_action="'none'")})


def form(path: str, csrf: str, button: str, *, fields: str = "") -> str:
    """Return a form as HTML.

    Args:
        path: Of the gateway, where it is posted to.
        csrf: What shows that this browser was given it.
        button: What its one button says.
        fields: Its fields as HTML, in which whatever came from outside is escaped.
    """
    escaped = {"path": html.escape(path), "csrf": html.escape(csrf), "button": html.escape(button)}
    return _FORM.substitute(escaped, fields=fields)


def token_form(path: str, csrf: str) -> str:
    """Return the form that asks for an access token, as HTML; see ``form``."""
    field = (
        '<label for="token">Access token</label>'
        '<input id="token" name="token" type="password" autocomplete="off" spellcheck="false" required>'
    )
    return form(path, csrf, "Sign in", fields=field)


def page(
    title: str,
    said: str,
    advice: str,
    *,
    status: int = 200,
    role: str = "presentation",
    listed: Sequence[str] = (),
    form: str = "",
) -> HTMLResponse:
    """Return a page of the gateway: a heading, two paragraphs of text, and perhaps a list and forms.

    Args:
        title: The heading.
        said: What the page has to say.
        advice: What its reader can do.
        status: The HTTP status.
        role: The ARIA role of what it says: ``status`` or ``alert`` where it is news.
        listed: Addresses to copy.
        form: As ``form`` returned it, one or several; everything else is text.
    """
    text = {"title": title, "role": role, "said": said, "advice": advice}
    escaped = {name: html.escape(value) for name, value in text.items()}
    policy = _policy(form_action="'self'" if form else "'none'")
    headers = {**_HEADERS, "Content-Security-Policy": policy}
    items = "".join(f"<li><code>{html.escape(each)}</code></li>" for each in listed)
    escaped["listed"] = f"<ul>{items}</ul>" if items else ""
    return HTMLResponse(_PAGE.substitute(escaped, head="", form=form), status_code=status, headers=headers)


def _policy(*, form_action: str) -> str:
    return (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'; base-uri 'none';"
        f" form-action {form_action}"
    )

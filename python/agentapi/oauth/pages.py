"""The pages that a browser meets on its way: plain HTML without script, framed by nobody.

Written with ``string.Template`` and ``html.escape``: three short pages do not need a template engine.
"""

from __future__ import annotations

import base64
import hashlib
import html
from string import Template
from typing import Final

from starlette.responses import HTMLResponse

__all__ = ["connected", "not_connected"]

_STYLE: Final = (
    ":root{color-scheme:light dark}body{font:1.125rem/1.5 system-ui,sans-serif;margin:12vh auto;max-width:34rem;"
    "padding:0 1.5rem}h1{font-size:1.6rem}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

_PAGE: Final = Template(
    "<!doctype html>\n"
    '<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    "<title>$title</title><style>" + _STYLE + "</style></head>\n"
    '<body><main><h1>$title</h1><p role="$role">$said</p><p>$advice</p></main></body></html>\n'
)

_HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'; base-uri 'none';"
        " form-action 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # The address of the callback holds the code.
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def connected(upstream: str) -> HTMLResponse:
    """Return the page of a success."""
    return _page(
        200, "Connected", "status", f"Your account is connected to {upstream}.", "You can close this window and go on."
    )


def not_connected(status: int, reason: str) -> HTMLResponse:
    """Return the page of a failure: what happened, in words for the one who reads it, and what to do."""
    advice = "Nothing was connected. Go back to where you came from and begin again; if it fails again, tell the person"
    return _page(status, "Not connected", "alert", reason, f"{advice} who runs this gateway what it says here.")


def _page(status: int, title: str, role: str, said: str, advice: str) -> HTMLResponse:
    text = {"title": title, "role": role, "said": said, "advice": advice}
    escaped = {name: html.escape(value) for name, value in text.items()}
    return HTMLResponse(_PAGE.substitute(escaped), status_code=status, headers=_HEADERS)

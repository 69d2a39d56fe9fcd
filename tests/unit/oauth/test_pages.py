from __future__ import annotations

import base64
import hashlib
import re

from agentapi.oauth.pages import connect, connected, not_connected


def test_whatever_a_page_says_is_text() -> None:
    for page in (connected('<b title="x">&'), not_connected(403, '<b title="x">&')):
        text = bytes(page.body).decode()
        assert "<b " not in text
        assert "&lt;b title=&quot;x&quot;&gt;&amp;" in text


def test_the_policy_allows_the_one_style_that_is_there() -> None:
    page = not_connected(403, "No.")
    style = re.search("<style>(.*)</style>", bytes(page.body).decode())
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in page.headers["content-security-policy"]
    assert page.status_code == 403


def test_the_connect_page_names_both_who_asks_for_an_account_and_where_it_is() -> None:
    page = connect(
        "tracker", "mia", host="mcp.example:8443", server="login.elsewhere.example", scopes=(), path="/x", csrf="y"
    )
    text = bytes(page.body).decode()
    assert "tracker, a server at mcp.example:8443." in text
    assert "at login.elsewhere.example, and mcp.example:8443 may use it" in text

"""Somebody who goes through the gateway's pages as a browser would, without one: forms, links and cookies."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx2

from support.plain import PLAIN

__all__ = ["Walker"]

_STEPS = 20
_TIMEOUT_S = 30.0


class _Page(HTMLParser):
    """The one form of a page, where it has one, and the link that it leads on with."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self.onward: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form" and self.action is None:
            self.action = given["action"]
        elif tag == "input":
            self.fields[given["name"]] = given.get("value", "")
        elif tag == "meta" and given.get("http-equiv") == "refresh":
            self.onward = given["content"].partition("url=")[2]


@dataclass(slots=True)
class Walker:
    """One person: what shows who they are, and the cookies of their browser."""

    token: str
    cookies: dict[tuple[str, str], str] = field(default_factory=dict)
    """By site and name. Browsers take loopback for a safe place and send secure cookies there; clients do not."""

    def walk(self, url: str) -> str:
        """Open ``url``, send every form, follow where pages lead, and return the text of the last one."""
        answer = self._ask("GET", url)
        for _ in range(_STEPS):
            page = _Page(answer.text)
            if location := answer.headers.get("location"):
                answer = self._ask("GET", urljoin(url, location))
            elif page.onward is not None:
                answer = self._ask("GET", urljoin(url, page.onward))
            elif answer.is_success and page.action is not None:
                if "token" in page.fields:
                    page.fields["token"] = self.token
                answer = self._ask("POST", urljoin(url, page.action), page.fields)
            else:
                return answer.text
            url = str(answer.url)
        message = f"the pages go on and on: {url}"
        raise AssertionError(message)

    def _ask(self, method: str, url: str, form: dict[str, str] | None = None) -> httpx2.Response:
        site = urlsplit(url).netloc
        cookies = "; ".join(f"{name}={value}" for (of, name), value in self.cookies.items() if of == site)
        headers = {"Origin": f"http://{site}"} if method == "POST" else {}
        if cookies:
            headers["Cookie"] = cookies
        answer = httpx2.request(method, url, data=form, headers=headers, timeout=_TIMEOUT_S, **PLAIN)
        for line in answer.headers.get_list("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[site, name] = value
        return answer

"""A browser of pages without script: cookies, forms, redirects, and links that follow themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

if TYPE_CHECKING:
    import httpx2

__all__ = ["Form", "Page", "PageBrowser"]


@dataclass
class Form:
    action: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    button: str = ""


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.goes_on: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(given["action"]))
        elif tag == "input" and self.forms:
            self.forms[-1].fields[given["name"]] = given.get("value", "")
        elif tag == "meta" and given.get("http-equiv") == "refresh":
            self.goes_on = given["content"].removeprefix("0;url=")


@dataclass
class Page:
    status: int
    text: str
    headers: httpx2.Headers
    path: str
    forms: list[Form]
    goes_on: str | None
    """Another site's address, where the page leads there by itself."""

    @property
    def form(self) -> Form:
        (only,) = self.forms
        return only


@dataclass
class PageBrowser:
    """One browser, on one site."""

    http: httpx2.AsyncClient
    cookies: dict[str, str] = field(default_factory=dict)
    site: str = "same-origin"

    async def get(self, url: str) -> Page:
        return await self._page("GET", url)

    async def post(self, url: str, fields: dict[str, str], **headers: str) -> Page:
        return await self._page("POST", url, fields, headers)

    async def submit(self, page: Page, **fields: str) -> Page:
        return await self.post(page.form.action, {**page.form.fields, **fields})

    async def _page(
        self, method: str, url: str, fields: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> Page:
        while True:
            sent = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
            if method == "POST":
                sent["Sec-Fetch-Site"] = self.site
            answer = await self.http.request(method, url, data=fields, headers={**sent, **(headers or {})})
            self._keep(answer)
            location = answer.headers.get("location")
            if location is None or answer.status_code != 303:
                break
            target = urljoin(str(answer.url), location)
            if urlsplit(target).netloc != urlsplit(str(self.http.base_url)).netloc:
                break
            method, url, fields = "GET", target, None
        reader = _Reader()
        reader.feed(answer.text)
        path = urlsplit(str(answer.url)).path
        return Page(answer.status_code, answer.text, answer.headers, path, reader.forms, reader.goes_on)

    def _keep(self, answer: httpx2.Response) -> None:
        for header in answer.headers.get_list("set-cookie"):
            for name, morsel in SimpleCookie(header).items():
                if morsel["max-age"] == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value

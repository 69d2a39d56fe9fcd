"""A person with a real browser connects an account, from the link that a tool call answered with to its revocation;
and another joins an organisation by the link of an invitation.

The browser is the system's Chromium, the authorization server npm's ``oidc-provider``, the upstream a server of the SDK
that protects itself with it. Nothing about them is configured at the gateway but the upstream's address.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator  # noqa: TC003 - pytest-asyncio reads it
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from agentapi.storage.embedded import embedded_postgres
from integration.oauth.test_sdk_upstream import protected
from support.browser import Visitor, chromium, visitor
from support.deployment import agentapi, deployment_environment, serving
from support.oidc import oidc_provider
from support.plain import PLAIN
from support.processes import free_port
from support.raw import modern_call, rpc
from support.tokens import Issuer

if TYPE_CHECKING:
    from playwright.async_api import Browser

LIFETIME_S = 2
BASE = "/api/v1/mcp/oauth"
PEOPLE = Issuer("https://people.example")


@dataclass(slots=True)
class Person:
    """Somebody who uses the deployment."""

    url: str
    token: str

    async def ask(self, method: str, path: str, **body: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"}
        async with httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=30.0, **PLAIN) as client:
            answer = await client.request(method, path, json=body or None)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def whisper(self) -> Any:
        """Call the tool; return what it said, or the link at which an account has to be connected first."""
        url = f"{self.url}/mcp/demo/main"
        answer = rpc(await asyncio.to_thread(modern_call, url, self.token, "tools/call", {"name": "vault__whisper"}))
        if "error" in answer:
            assert answer["error"]["data"]["url"] in answer["error"]["message"]
            return answer["error"]["data"]["url"]
        return answer["result"]["content"][0]["text"]


@dataclass(slots=True)
class Deployment:
    """``agentapi serve`` on a port that it keeps, with an upstream that wants OAuth."""

    env: dict[str, str]
    port: int
    log: Path
    upstream: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        with serving(self.env, self.log, port=self.port):
            yield
        assert "Traceback" not in self.log.read_text()

    def person(self, subject: str) -> Person:
        audience = f"{self.url}/mcp/demo/main"
        return Person(self.url, PEOPLE.sign(PEOPLE.claims(sub=subject, aud=[audience, self.url])))

    def keys(self, *arguments: str) -> str:
        done = agentapi("keys", *arguments, env=self.env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def write_keyring(self, text: str) -> None:
        Path(self.env["AGENTAPI_KEYRING_FILE"]).write_text(text)


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest.fixture(scope="module")
async def deployment(module_directory: Path) -> AsyncIterator[Deployment]:
    people = json.dumps([PEOPLE.settings({"default_role": "org_admin"})])
    async with embedded_postgres(module_directory / "data") as postgres, oidc_provider(LIFETIME_S) as issuer:
        env = {
            **deployment_environment(postgres, module_directory, people),
            "AGENTAPI_CONNECT_WITH_TOKEN": "true",
            "AGENTAPI_EGRESS_ALLOW_HTTP": "true",
            "AGENTAPI_EGRESS_ALLOW_NETWORKS": '["127.0.0.0/8"]',
        }
        assert agentapi("migrate", env=env).returncode == 0
        assert agentapi("organizations", "create", "demo", env=env).returncode == 0
        made = Deployment(env, free_port(), module_directory / "log")
        async with protected(issuer) as upstream:
            given = {"name": "vault", "transport": "http", "endpoint": f"{upstream.url}/mcp", "auth": "oauth"}
            async with made.serving():
                found = await made.person("admin").ask("POST", "/api/v1/mcp/configurations", **given)
            made.upstream = found["id"]
            yield made


async def sign_in(by: Visitor, person: Person, link: str) -> None:
    """Open the link and show who one is, with the keyboard alone."""
    await by.page.goto(link)
    assert await by.barriers() == []
    await by.picture("sign-in")
    await by.press_until("Tab", "#token")
    await by.page.keyboard.type(person.token)
    await by.page.keyboard.press("Enter")
    await by.page.wait_for_selector("h1:not(:text('Sign in to connect'))")


async def agree(by: Visitor) -> None:
    """Go on to the authorization server and say yes there."""
    assert await by.barriers() == []
    await by.picture("connect")
    await by.press_until("Tab", "button")
    await by.page.keyboard.press("Enter")
    await by.page.fill("input[name=login]", "alice")
    await by.page.fill("input[name=password]", "any")
    await by.page.click("button[type=submit]")
    await by.page.wait_for_selector("input[name=prompt][value=consent]", state="attached")
    await by.page.click("button[type=submit]")
    await by.page.wait_for_selector("h1:text('onnected')")


async def connect(by: Visitor, person: Person, link: str) -> None:
    await sign_in(by, person, link)
    await agree(by)
    assert await by.page.inner_text("h1") == "Connected"
    assert "Your account is connected to vault." in await by.page.inner_text("main")
    assert await by.barriers() == []
    await by.picture("connected")
    assert by.complaints_of(person.url) == []


async def test_from_the_link_of_a_call_over_expiry_and_new_keys_to_revocation(
    deployment: Deployment, browser: Browser
) -> None:
    alice = deployment.person("alice")
    async with visitor(browser) as by:
        async with deployment.serving():
            link = await alice.whisper()
            assert link.startswith(f"{deployment.url}/connect/")
            await connect(by, alice, link)
            assert await alice.whisper() == "psst"
            ended = time.time() + LIFETIME_S + 1
            await asyncio.to_thread(wait_for_time, ended)
            assert await alice.whisper() == "psst"
        deployment.write_keyring(deployment.keys("add", "k2"))
        deployment.write_keyring(deployment.keys("activate", "k2"))
        async with deployment.serving():
            rotating = asyncio.to_thread(deployment.keys, "rotate", "--json")
            rotated, *said = await asyncio.gather(rotating, *(alice.whisper() for _ in range(10)))
            assert set(said) == {"psst"}
            columns = json.loads(rotated)["columns"]
            # The connection itself may have been refreshed meanwhile, and so sealed anew by that.
            assert columns["oauth_clients.secret"]["resealed"] == 1
            assert {column["remaining"] for column in columns.values()} == {0}
        deployment.write_keyring(deployment.keys("remove", "k1"))
        async with deployment.serving():
            assert await alice.whisper() == "psst"
            assert await alice.ask("POST", f"{BASE}/revoke", upstream=deployment.upstream) == {"at_provider": "revoked"}
            again = await alice.whisper()
            assert again.startswith(f"{deployment.url}/connect/")
            # The sign-in was sealed under the key that is gone.
            await sign_in(by, alice, again)
            assert await by.page.inner_text("h1") == "Connect an account to vault"


def wait_for_time(moment: float) -> None:
    """Let the token end: its lifetime is the authorization server's to count, and it has no clock to move."""
    while (left := moment - time.time()) > 0:
        time.sleep(left)


async def test_a_link_is_of_no_use_to_somebody_else(deployment: Deployment, browser: Browser) -> None:
    bella, mallory = deployment.person("bella"), deployment.person("mallory")
    async with deployment.serving(), visitor(browser) as by:
        await sign_in(by, mallory, await bella.whisper())
        assert await by.page.inner_text("h1") == "This link is for somebody else"
        assert await by.barriers() == []
        await by.picture("somebody-else")
        assert (await mallory.whisper()).startswith(deployment.url)
        assert (await bella.whisper()).startswith(deployment.url)


async def test_whoever_does_not_agree_is_told_so_and_nothing_is_connected(
    deployment: Deployment, browser: Browser
) -> None:
    carol = deployment.person("carol")
    async with deployment.serving(), visitor(browser) as by:
        await sign_in(by, carol, await carol.whisper())
        await by.page.click("button")
        await by.page.click("a[href$=abort]")
        await by.page.wait_for_selector("h1:text('Not connected')")
        assert await by.page.get_by_role("alert").inner_text() == "The connection was not allowed at the provider."
        assert await by.barriers() == []
        await by.picture("not-allowed")
        assert (await carol.whisper()).startswith(deployment.url)


async def test_a_browser_with_another_profile_cannot_finish_what_was_begun(
    deployment: Deployment, browser: Browser
) -> None:
    dora = deployment.person("dora")
    async with deployment.serving(), visitor(browser) as by, visitor(browser) as other:
        await sign_in(by, dora, await dora.whisper())
        async with by.page.expect_request(lambda request: "/auth?" in request.url) as going:
            await by.page.click("button")
        await other.page.goto((await going.value).url)
        await other.page.fill("input[name=login]", "mallory")
        await other.page.fill("input[name=password]", "any")
        await other.page.click("button[type=submit]")
        await other.page.click("button[type=submit]")
        await other.page.wait_for_selector("h1:text('Not connected')")
        assert (await dora.whisper()).startswith(deployment.url)


async def test_an_invited_person_joins_with_the_keyboard_alone(deployment: Deployment, browser: Browser) -> None:
    admin, erin = deployment.person("admin"), deployment.person("erin")
    async with deployment.serving(), visitor(browser, viewport={"width": 360, "height": 740}) as by:
        link = (await admin.ask("POST", "/api/v1/invitations", role="viewer", subject="erin"))["accept_url"]
        await by.page.goto(link)
        assert "invites erin to" in await by.page.inner_text("main")
        assert await by.barriers() == []
        await by.picture("invitation")
        await by.press_until("Tab", "#token")
        await by.page.keyboard.type(erin.token)
        await by.page.keyboard.press("Enter")
        await by.page.wait_for_selector("button:text('Accept')")
        assert await by.barriers() == []
        await by.picture("invitation-accept")
        await by.press_until("Tab", "button")
        await by.page.keyboard.press("Enter")
        await by.page.wait_for_selector("h1:text('You are in')")
        assert await by.page.inner_text("li code") == f"{deployment.url}/mcp/demo/main"
        assert by.page.url == link
        assert await by.barriers() == []
        await by.picture("invitation-accepted")
        # Nothing of the page is cut off at the width of a telephone.
        assert await by.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert by.complaints_of(deployment.url) == []
        roles = {each["subject"]: each["role"] for each in (await admin.ask("GET", "/api/v1/members"))["items"]}
        assert roles["erin"] == "viewer"
    async with deployment.serving(), visitor(browser) as by:
        await by.page.goto(link)
        assert await by.page.inner_text("h1") == "This link is not good"
        # Mistyped, so that no route is known whose name the log could hold instead.
        await by.page.goto(f"{link}/")
        await by.page.goto(link)
        assert await by.barriers() == []
        await by.picture("invitation-not-good")
    assert link.rpartition("/")[2] not in deployment.log.read_text()

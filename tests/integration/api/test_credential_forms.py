"""What an organisation declares that its users are asked for, as the API takes, keeps and gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from integration.api.harness import Api

FORM: dict[str, Any] = {
    "fields": [{"name": "token", "label": "Access token", "pattern": "tok_[a-z]+"}],
    "placements": [{"place": "header", "name": "Authorization", "value": "Bearer {token}"}],
}


async def test_a_form_is_kept_and_shown_as_it_was_declared(api: Api) -> None:
    admin = api.caller()
    created = await admin.created(auth="user", credential_form=FORM)
    whole = {
        "fields": [
            {
                "name": "token",
                "label": "Access token",
                "kind": "secret",
                "pattern": "tok_[a-z]+",
                "min_length": 1,
                "max_length": 4096,
                "help": "",
                "help_url": None,
            }
        ],
        "placements": FORM["placements"],
    }
    assert created["credential_form"] == whole
    assert (await admin.read(created["id"])).json() == created
    assert (await admin.page()).json()["items"] == [created]
    assert not created["has_secret"]
    login = {**FORM, "placements": [{"place": "header", "name": "X-Token", "value": "{token}"}]}
    replaced = await admin.replace(created["id"], auth="user", credential_form=login)
    assert replaced.json()["credential_form"]["placements"] == login["placements"]
    assert (await admin.replace(created["id"])).json()["credential_form"] is None


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"auth": "user"}, "/credential_form"),
        ({"auth": "none", "credential_form": FORM}, "/credential_form"),
        ({"auth": "bearer", "secret": "x", "credential_form": FORM}, "/credential_form"),
        ({"auth": "user", "secret": "x", "credential_form": FORM}, "/secret"),
        ({"auth": "user", "credential_form": {**FORM, "more": 1}}, "/credential_form/more"),
        ({"auth": "user", "credential_form": {**FORM, "fields": []}}, "/credential_form/fields"),
        (
            {"auth": "user", "credential_form": {**FORM, "placements": [{**FORM["placements"][0], "name": "Host"}]}},
            "/credential_form/placements/0/name",
        ),
        (
            {"auth": "user", "transport": "stdio", "endpoint": ..., "command": "clock", "credential_form": FORM},
            "/credential_form/placements/0/place",
        ),
    ],
)
async def test_what_is_wrong_with_a_form_is_said_where_it_stands(
    api: Api, change: dict[str, Any], pointer: str
) -> None:
    answer = await api.caller().create(**change)
    assert answer.status_code == 422, answer.text
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


async def test_a_command_takes_the_variables_that_the_platform_names(api: Api) -> None:
    def stdio(name: str) -> dict[str, Any]:
        placements = [{"place": "environment", "name": name, "value": "{token}"}]
        form = {**FORM, "placements": placements}
        return {"transport": "stdio", "endpoint": ..., "command": "clock", "auth": "user", "credential_form": form}

    assert (await api.caller().create(**stdio("CLOCK_TOKEN"))).status_code == 201
    for name in ("PYTHONPATH", "OTHER_TOKEN"):
        answer = await api.caller().create(**stdio(name))
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/credential_form/placements/0/name"]

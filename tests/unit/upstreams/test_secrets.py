from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from agentapi._core import Keyring, SealError
from agentapi.principal import OrgId, UpstreamId
from agentapi.upstreams.models import Auth
from agentapi.upstreams.secrets import credential_headers, seal_secret
from unit.upstreams.doubles import ORG, upstream

SECRET = "pässword"


def keyring(key_id: str = "k1") -> Keyring:
    return Keyring.parse(Keyring.generate(key_id))


def sealed(keys: Keyring) -> bytes:
    return seal_secret(keys, ORG, upstream().id, SECRET)


@pytest.mark.parametrize(
    ("changes", "headers"),
    [
        ({"auth": Auth.BEARER}, {"Authorization": f"Bearer {SECRET}"}),
        ({"auth": Auth.API_KEY}, {"X-API-Key": SECRET}),
        ({"auth": Auth.API_KEY, "auth_header": "X-Token"}, {"X-Token": SECRET}),
        ({"auth": Auth.NONE}, {}),
        ({"auth": Auth.OAUTH}, {}),
    ],
    ids=["bearer", "API key", "API key in a header of its own", "none", "OAuth"],
)
def test_the_secret_is_attached_as_the_upstream_wants_it(changes: dict[str, Any], headers: dict[str, str]) -> None:
    keys = keyring()
    assert credential_headers(keys, upstream(secret=sealed(keys), **changes)) == headers


def test_without_a_secret_there_is_no_credential() -> None:
    assert credential_headers(keyring(), upstream(auth=Auth.BEARER)) == {}


def test_what_is_stored_does_not_show_the_secret_and_differs_each_time() -> None:
    keys = keyring()
    one, two = sealed(keys), sealed(keys)
    assert SECRET.encode() not in one
    assert one != two


@pytest.mark.parametrize(
    "row", [{"org_id": OrgId(UUID(int=9))}, {"id": UpstreamId(UUID(int=9))}], ids=["organisation", "upstream"]
)
def test_a_secret_moved_to_another_row_is_not_opened(row: dict[str, Any]) -> None:
    keys = keyring()
    with pytest.raises(SealError):
        credential_headers(keys, upstream(secret=sealed(keys), auth=Auth.BEARER, **row))


def test_a_secret_of_another_keyring_is_not_opened() -> None:
    stored = upstream(secret=sealed(keyring()), auth=Auth.BEARER)
    with pytest.raises(SealError):
        credential_headers(keyring(), stored)

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from agentapi._core import Keyring, SealError
from agentapi.oauth.brought.models import Brought, BroughtId, Stored
from agentapi.oauth.brought.vault import BroughtVault
from agentapi.principal import OrgId, UpstreamId, UserId

NOW = datetime(2026, 11, 22, tzinfo=UTC)
VALUES = {"user": SecretStr("ann"), "password": SecretStr("open sesame ä")}


def vault() -> BroughtVault:
    return BroughtVault(Keyring.parse(Keyring.generate("k1")))


def stored(sealer: BroughtVault) -> Stored:
    row = Stored(
        id=BroughtId(uuid4()),
        org_id=OrgId(uuid4()),
        user_id=UserId(uuid4()),
        upstream_id=UpstreamId(uuid4()),
        sealed=b"",
        created_at=NOW,
        updated_at=NOW,
    )
    sealed = sealer.seal(
        Brought(VALUES, "http https://x.example"),
        id_=row.id,
        org_id=row.org_id,
        user_id=row.user_id,
        upstream_id=row.upstream_id,
    )
    return replace(row, sealed=sealed)


def test_what_was_sealed_opens_for_its_row() -> None:
    sealer = vault()
    assert sealer.open(stored(sealer)) == Brought(VALUES, "http https://x.example")


@pytest.mark.parametrize("part", ["id", "org_id", "user_id", "upstream_id"])
def test_it_opens_for_no_other(part: str) -> None:
    sealer = vault()
    changed: dict[str, Any] = {part: uuid4()}
    with pytest.raises(SealError):
        sealer.open(replace(stored(sealer), **changed))


def test_it_opens_under_no_other_keyring_and_not_if_it_was_changed() -> None:
    sealer = vault()
    row = stored(sealer)
    with pytest.raises(SealError):
        vault().open(row)
    with pytest.raises(SealError):
        sealer.open(replace(row, sealed=row.sealed[:-1] + bytes([row.sealed[-1] ^ 1])))


def test_neither_prints_a_value() -> None:
    sealer = vault()
    row = stored(sealer)
    printed = repr(row) + repr(sealer.open(row))
    assert "sesame" not in printed
    assert "ann" not in printed
    assert {field.name for field in fields(row) if not field.repr} == {"sealed"}

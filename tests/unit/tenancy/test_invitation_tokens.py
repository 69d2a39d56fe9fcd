from __future__ import annotations

import itertools
from uuid import uuid4

import pytest

from agentapi.principal import OrgId
from agentapi.tenancy.invitations.text import hash_of, organization_of, write_token

ORG = OrgId(uuid4())


def test_a_token_names_its_organisation_and_is_like_no_other() -> None:
    tokens = {write_token(ORG) for _ in range(100)}
    assert len(tokens) == len({hash_of(token) for token in tokens}) == 100
    assert {organization_of(token) for token in tokens} == {ORG}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "agi_",
        write_token(ORG)[:-1],
        write_token(ORG) + "0",
        write_token(ORG) + "\n",
        write_token(ORG).upper(),
        write_token(ORG).replace("agi_", "agx_"),
        "agi_" + "g" * 96,
        "agi_" + "\N{ARABIC-INDIC DIGIT ONE}" * 96,
        "x" * 10_000,
    ],
    ids=itertools.count(),
)
def test_what_is_no_token_is_of_nobody(text: str) -> None:
    assert organization_of(text) is None


def test_the_secret_of_one_organisation_is_no_secret_of_another() -> None:
    token = write_token(ORG)
    moved = token.replace(ORG.hex, uuid4().hex)
    assert organization_of(moved) != ORG
    assert hash_of(moved) != hash_of(token)

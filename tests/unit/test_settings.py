from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from agentapi.errors import StartupError
from agentapi.settings import Settings, StdioCommand, describe_settings, load_issuers, load_settings

if TYPE_CHECKING:
    from pathlib import Path

ISSUER = {"issuer": "https://issuer.example", "jwks_url": "https://issuer.example/keys"}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("AGENTAPI_")]:
        monkeypatch.delenv(name)


def test_the_defaults_are_those_of_production() -> None:
    settings = load_settings()
    assert settings.environment == "production"
    assert (settings.egress_allow_http, settings.egress_allow_networks, settings.issuers) == (False, (), ())
    assert settings.stdio_commands == {}
    assert settings.host == "127.0.0.1"


def test_tokens_connect_in_development_alone_unless_a_variable_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not load_settings().takes_tokens_to_connect
    assert load_settings(environment="development").takes_tokens_to_connect
    monkeypatch.setenv("AGENTAPI_CONNECT_WITH_TOKEN", "true")
    assert load_settings().takes_tokens_to_connect
    monkeypatch.setenv("AGENTAPI_CONNECT_WITH_TOKEN", "false")
    assert not load_settings(environment="development").takes_tokens_to_connect


def test_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTAPI_PORT", "9000")
    monkeypatch.setenv("AGENTAPI_EGRESS_ALLOW_NETWORKS", '["10.0.0.0/8", "fd00::/8"]')
    monkeypatch.setenv("AGENTAPI_ISSUERS", json.dumps([ISSUER]))
    monkeypatch.setenv("AGENTAPI_STDIO_COMMANDS", '{"time": {"command": "uvx", "env": {"TOKEN": "s3cret"}}}')
    settings = load_settings()
    assert settings.port == 9000
    assert [str(network) for network in settings.egress_allow_networks] == ["10.0.0.0/8", "fd00::/8"]
    assert settings.issuers[0].issuer == ISSUER["issuer"]
    assert settings.stdio_commands["time"].env["TOKEN"].get_secret_value() == "s3cret"
    assert load_settings(port=1).port == 1


def test_every_wrong_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        "AGENTAPI_PORT": "99999",
        "AGENTAPI_WORKERS": "none",
        "AGENTAPI_SANDBOX": "sometimes",
        "AGENTAPI_PUBLIC_URL": "gateway",
        "AGENTAPI_EGRESS_TIMEOUT_S": "0",
        "AGENTAPI_MAX_BODY_BYTES": "1",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StartupError) as caught:
        load_settings()
    assert all(f"{name}: " in caught.value.message for name in wrong)
    assert "\n" not in caught.value.message


def test_a_wrong_part_is_named_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    issuers = [ISSUER, {"issuer": "x", "preset": "okta", "extra": 1}]
    monkeypatch.setenv("AGENTAPI_ISSUERS", json.dumps(issuers))
    monkeypatch.setenv("AGENTAPI_STDIO_COMMANDS", '{"time": {"args": []}}')
    with pytest.raises(StartupError) as caught:
        load_settings()
    for place in ("AGENTAPI_ISSUERS.1.PRESET", "AGENTAPI_ISSUERS.1.EXTRA", "AGENTAPI_STDIO_COMMANDS.TIME.COMMAND"):
        assert place in caught.value.message


@pytest.mark.parametrize("name", ["ISSUERS", "STDIO_COMMANDS", "ALLOWED_ORIGINS", "EGRESS_ALLOW_NETWORKS"])
def test_what_must_be_json_says_so(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"AGENTAPI_{name}", "[s3cret")
    with pytest.raises(StartupError, match="is not JSON") as caught:
        load_settings()
    assert name.lower() in caught.value.message.lower()
    assert "s3cret" not in caught.value.message


def test_a_wrong_value_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTAPI_ISSUERS", '[{"issuer": "x", "shared_secret": ["hunter2"]}]')
    monkeypatch.setenv("AGENTAPI_PORT", "hunter2")
    with pytest.raises(StartupError) as caught:
        load_settings()
    assert "hunter2" not in caught.value.message


def test_the_description_redacts_secrets_and_names_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hunter2hunter2hunter2hunter2hunter2"
    monkeypatch.setenv("AGENTAPI_DATABASE_URL", f"postgresql://app:{secret}@db.example/agentapi")
    monkeypatch.setenv("AGENTAPI_MIGRATION_DATABASE_URL", f"postgresql://owner:{secret}@db.example/agentapi")
    monkeypatch.setenv("AGENTAPI_KEYRING", secret)
    monkeypatch.setenv("AGENTAPI_ISSUERS", json.dumps([{"issuer": "x", "shared_secret": secret}]))
    monkeypatch.setenv("AGENTAPI_STDIO_COMMANDS", json.dumps({"a": {"command": "b", "env": {"T": secret}}}))
    described = describe_settings()
    assert secret not in json.dumps(described)
    assert described["AGENTAPI_KEYRING"] == {"value": "**********", "source": "environment"}
    assert described["AGENTAPI_PORT"] == {"value": 8000, "source": "default"}
    assert set(described) == {f"AGENTAPI_{name.upper()}" for name in Settings.model_fields}


def test_settings_show_no_secret_in_their_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTAPI_KEYRING", "hunter2")
    assert "hunter2" not in repr(load_settings())


def test_the_issuers_file_adds_to_the_variable(tmp_path: Path) -> None:
    path = tmp_path / "issuers.json"
    path.write_text(json.dumps([{**ISSUER, "issuer": "https://second.example"}]), "utf-8")
    settings = load_settings(issuers=[ISSUER], issuers_file=path)
    assert [issuer.issuer for issuer in load_issuers(settings)] == [ISSUER["issuer"], "https://second.example"]
    assert load_issuers(load_settings(issuers=[ISSUER])) == settings.issuers


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "Invalid JSON"),
        (b"{}", "AGENTAPI_ISSUERS_FILE: "),
        (b'[{"issuer": 1}]', "AGENTAPI_ISSUERS_FILE: 0.ISSUER"),
        (b'[{"issuer": "x", "colour": "red"}]', "AGENTAPI_ISSUERS_FILE: 0.COLOUR"),
        (b"\xff", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
    ],
)
def test_a_wrong_issuers_file_is_one_sentence(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "issuers.json"
    path.write_bytes(content)
    with pytest.raises(StartupError) as caught:
        load_issuers(load_settings(issuers_file=path))
    assert complaint in caught.value.message


def test_a_missing_issuers_file_is_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(StartupError, match="AGENTAPI_ISSUERS_FILE cannot be read"):
            load_issuers(load_settings(issuers_file=path))


def test_a_variable_of_a_command_is_its_own_or_the_users() -> None:
    StdioCommand.model_validate({"command": "x", "env": {"A": "1"}, "user_env": ["B"]})
    with pytest.raises(ValidationError, match="'env' or in 'user_env'"):
        StdioCommand.model_validate({"command": "x", "env": {"A": "1"}, "user_env": ["A", "B"]})

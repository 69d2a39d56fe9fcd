"""What an organisation may declare: every rule refuses what it is there for, and says where."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from agentapi.upstreams.form_values import place_values, value_complaints
from agentapi.upstreams.forms import CredentialForm, form_complaints, literals_and_fields

TOKEN = {"name": "token", "label": "Token"}
BEARER = {"place": "header", "name": "Authorization", "value": "Bearer {token}"}


def form(fields: list[dict[str, Any]], *placements: dict[str, Any]) -> CredentialForm:
    return CredentialForm.model_validate_json(
        CredentialForm.model_validate(
            {"fields": tuple(fields), "placements": placements}, strict=False
        ).model_dump_json()
    )


def complaints(
    given: CredentialForm, *, variables: tuple[str, ...] | None = None, endpoint: str = "https://x.example/mcp"
) -> list[str]:
    found = form_complaints(
        given,
        is_command=variables is not None,
        endpoint=None if variables is not None else endpoint,
        variables=variables or (),
    )
    return [complaint.pointer.removeprefix("/credential_form") for complaint in found]


def test_forms_of_every_kind_are_good() -> None:
    login = [{"name": "user", "label": "User", "kind": "text"}, {"name": "password", "label": "Password"}]
    pair = [{"name": "id", "label": "Id"}, {"name": "key", "label": "Key", "kind": "multiline"}]
    assert complaints(form([TOKEN], BEARER)) == []
    assert complaints(form([TOKEN], {"place": "query", "name": "key", "value": "{token}"})) == []
    assert (
        complaints(form(login, {"place": "header", "name": "Authorization", "value": "basic:{user}:{password}"})) == []
    )
    environment = [
        {"place": "environment", "name": "KEY_ID", "value": "{id}"},
        {"place": "environment", "name": "KEY", "value": "{key}"},
    ]
    assert complaints(form(pair, *environment), variables=("KEY_ID", "KEY")) == []


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "content-length",
        "Transfer-Encoding",
        "Mcp-Session-Id",
        "mcp-anything",
        "Cookie",
        "Connection",
        "Expect",
        "Proxy-Authorization",
        "X-Forwarded-For",
        "Forwarded",
        "TE",
        "Origin",
        "a b",
        "a:",
        "a\r\nb",
        "é",
    ],
)
def test_a_header_that_is_the_transports_own_is_refused(name: str) -> None:
    assert complaints(form([TOKEN], {**BEARER, "name": name})) == ["/placements/0/name"]


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "HOME",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "DYLD_INSERT_LIBRARIES",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "NODE_OPTIONS",
        "NODE_EXTRA_CA_CERTS",
        "NPM_CONFIG_REGISTRY",
        "UV_INDEX_URL",
        "PIP_INDEX_URL",
        "PERL5OPT",
        "RUBYOPT",
        "JAVA_TOOL_OPTIONS",
        "BASH_ENV",
        "ENV",
        "IFS",
        "HTTPS_PROXY",
        "SSL_CERT_FILE",
        "SSLKEYLOGFILE",
        "GIT_SSH_COMMAND",
        "AGENTAPI_KEYRING",
        "XDG_CONFIG_HOME",
        "SHELL",
        "path",
        "A=B",
        "A B",
        "1A",
        "A\0",
    ],
)
def test_a_variable_that_decides_what_runs_is_refused_even_if_the_platform_names_it(name: str) -> None:
    declared = form([TOKEN], {"place": "environment", "name": name, "value": "{token}"})
    assert complaints(declared, variables=(name,)) == ["/placements/0/name"]


def test_a_variable_needs_the_word_of_the_platform_admin() -> None:
    declared = form([TOKEN], {"place": "environment", "name": "API_KEY", "value": "{token}"})
    assert complaints(declared, variables=("OTHER",)) == ["/placements/0/name"]
    assert complaints(declared, variables=("API_KEY",)) == []


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "{}",
        "{token",
        "token}",
        "{{token}}",
        "{token!r}",
        "{token.x}",
        "{token[0]}",
        "{token:>9}",
        "{0}",
        "{Token}",
        "{token}{",
        "{ token }",
        "basic:{token}",
        "basic:{token}:{token}:x",
        " basic:{token}:{token}x",
        "x\r\nEvil: {token}",
        "ä {token}",
        " {token}",
        "{token} ",
        "{unknown}",
        "%(token)s{",
        "${token}}",
    ],
)
def test_a_template_is_text_and_fields_and_nothing_else(value: str) -> None:
    assert complaints(form([TOKEN], BEARER, {"place": "header", "name": "X-Other", "value": value})) == [
        "/placements/1/value"
    ]


@given(st.text(string.printable, max_size=60))
def test_what_is_read_of_a_template_is_the_template(template: str) -> None:
    literals, fields = literals_and_fields(template)
    assert len(literals) == len(fields) + 1
    if not template.startswith("basic:"):
        pieces = [
            literals[0],
            *(piece for name, text in zip(fields, literals[1:], strict=True) for piece in (f"{{{name}}}", text)),
        ]
        assert "".join(pieces) == template


def test_everything_else_is_complained_about_where_it_stands() -> None:
    query = {"place": "query", "name": "key", "value": "{token}"}
    assert complaints(form([TOKEN, TOKEN], BEARER)) == ["/fields/1/name"]
    assert complaints(form([TOKEN, {"name": "idle", "label": "Idle"}], BEARER)) == ["/fields/1"]
    assert complaints(form([TOKEN], BEARER, {**BEARER, "name": "authorization"})) == ["/placements/1/name"]
    assert complaints(form([TOKEN], query), endpoint="https://x.example/mcp?key=") == ["/placements/0/name"]
    assert complaints(form([TOKEN], {**query, "name": "a&b"})) == ["/placements/0/name"]
    assert complaints(form([TOKEN], {**query, "value": "basic:{token}:{token}"})) == ["/placements/0/value"]
    assert complaints(form([{**TOKEN, "kind": "multiline"}], BEARER)) == ["/placements/0/value"]
    assert complaints(form([{**TOKEN, "min_length": 9, "max_length": 8}], BEARER)) == ["/fields/0/min_length"]
    assert complaints(form([TOKEN], BEARER), variables=("TOKEN",)) == ["/placements/0/place"]
    assert complaints(form([TOKEN], {**BEARER, "place": "environment"})) == ["/placements/0/place"]


@pytest.mark.parametrize("pattern", ["(", "a)|(b", "(?=a)", r"\1", "(?x)a #", r"\w{1000}{1000}{1000}"])
def test_a_pattern_is_one_that_the_engine_takes(pattern: str) -> None:
    assert complaints(form([{**TOKEN, "pattern": pattern}], BEARER)) == ["/fields/0/pattern"]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Token"},
        {"name": "to-ken"},
        {"name": ""},
        {"label": ""},
        {"label": "a\nb"},
        {"kind": "file"},
        {"max_length": 0},
        {"max_length": 99_999},
        {"help": "x" * 501},
        {"help_url": "http://x.example"},
        {"help_url": "javascript:alert(1)"},
        {"help_url": 'https://x.example/"'},
        {"help_url": "https://a@x.example"},
        {"secret": "x"},
    ],
)
def test_a_field_is_what_a_page_can_show(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        form([{**TOKEN, **change}], BEARER)


def test_a_form_is_not_empty_and_not_endless() -> None:
    many = [{"name": f"f{at}", "label": "x"} for at in range(9)]
    for fields, placements in (([], [BEARER]), ([TOKEN], []), (many, [BEARER]), ([TOKEN], [BEARER] * 9)):
        with pytest.raises(ValidationError):
            form(fields, *placements)


# What users give


def wrong(given: CredentialForm, **values: str) -> list[str]:
    secrets = {name: SecretStr(value) for name, value in values.items()}
    found = list(value_complaints(given, secrets))
    assert not any(value in complaint.detail for complaint in found for value in values.values() if len(value) > 3)
    return [complaint.pointer.removeprefix("/values") for complaint in found]


def header(template: str, *names: str) -> CredentialForm:
    fields = [{"name": name, "label": name} for name in names]
    return form(fields, {"place": "header", "name": "X-Key", "value": template})


def placed(given: CredentialForm, **values: str) -> dict[str, str]:
    found = place_values(given, {name: SecretStr(value) for name, value in values.items()})
    return {
        name: value.get_secret_value() for name, value in {**found.headers, **found.query, **found.environment}.items()
    }


def test_values_go_where_the_form_says() -> None:
    assert placed(form([TOKEN], BEARER), token="t0k3n") == {"Authorization": "Bearer t0k3n"}
    basic = header("basic:{user}:{password}", "user", "password")
    # RFC 7617, section 2: the example of the specification.
    assert placed(basic, user="Aladdin", password="open sesame") == {"X-Key": "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}
    assert placed(header("k={id}, s={key}", "id", "key"), id="a", key="{id}") == {"X-Key": "k=a, s={id}"}


def test_every_field_is_needed_and_no_other_is_taken() -> None:
    given = header("{a}-{b}", "a", "b")
    assert wrong(given, a="x") == ["/b"]
    assert wrong(given, a="x", b="y", c="z") == ["/c"]
    assert wrong(given, a="", b="y") == ["/a"]


@pytest.mark.parametrize(
    "value", ["a\r\nX-Evil: 1", "a\nb", "a\0", "a\x7f", "tab\tinside", " a", "a ", "ä", "snow☃", "\u2028a"]
)
@pytest.mark.parametrize("template", ["{a}", "Bearer {a}", "k={a};s={a}"])
def test_no_value_breaks_out_of_its_header(template: str, value: str) -> None:
    assert wrong(header(template, "a"), a=value) == ["/a"]


@pytest.mark.parametrize("value", ['a"b', "a,b", "a;role=admin", "a\\b", "a b"])
def test_a_value_in_front_of_more_does_not_end_its_part(value: str) -> None:
    assert wrong(header("id={a};role=user", "a"), a=value) == ["/a"]
    assert wrong(header('Token token="{a}"', "a"), a=value) == ["/a"]


def test_a_login_holds_what_a_login_may_hold() -> None:
    basic = header("basic:{user}:{password}", "user", "password")
    assert wrong(basic, user="ann", password='pä: ss,;"\\') == []
    assert wrong(basic, user="an:n", password="x") == ["/user"]
    assert wrong(basic, user="ann", password="x\n") == ["/password"]


def test_lines_of_text_hold_lines_and_nothing_worse() -> None:
    key = [{"name": "key", "label": "Key", "kind": "multiline"}]
    given = form(key, {"place": "environment", "name": "KEY", "value": "{key}"})
    assert wrong(given, key="-----BEGIN-----\nabc\n-----END-----\n") == []
    for bad in ("a\0b", "a\x1bb", "a\rb"):
        assert wrong(given, key=bad) == ["/key"]


def test_lengths_and_patterns_hold_for_the_whole_value() -> None:
    bounded = form([{**TOKEN, "min_length": 3, "max_length": 5, "pattern": "[a-z]+|x1"}], BEARER)
    assert [wrong(bounded, token=value) for value in ("ab", "abc", "abcde", "abcdef", "abc1", "1abc", "x1")] == [
        ["/token"],
        [],
        [],
        ["/token"],
        ["/token"],
        ["/token"],
        ["/token"],
    ]
    long = header("{a}{b}{c}", "a", "b", "c")
    assert wrong(long, a="x" * 4096, b="x" * 4096, c="x") == [""]


def test_a_pattern_costs_time_that_grows_with_the_text_alone() -> None:
    evil = form([{**TOKEN, "pattern": "(a+)+b"}], BEARER)
    assert wrong(evil, token="a" * 4000) == ["/token"]


@given(st.text(min_size=1, max_size=40), st.sampled_from(["{a}", "Bearer {a}", "a={a}; b=c", "basic:{a}:{b}"]))
def test_whatever_is_accepted_is_one_header_value(value: str, template: str) -> None:
    names = ("a", "b") if "{b}" in template else ("a",)
    given_form = header(template, *names)
    values = {"a": SecretStr(value), **({"b": SecretStr("x")} if len(names) > 1 else {})}
    if not list(value_complaints(given_form, values)):
        rendered = place_values(given_form, values).headers["X-Key"].get_secret_value()
        assert rendered == rendered.strip()
        assert all(" " <= character <= "~" for character in rendered)

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from agentapi.observability.logs import configure_from_settings, configure_logging
from agentapi.observability.redaction import REDACTED, redact, scrub
from agentapi.observability.request_lines import COMMON, log_request
from agentapi.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwbGFudGVkIn0.c2lnbmF0dXJlLXBsYW50ZWQ"
SEALED = "v1:k2025a:Zm9vYmFyYmF6UUxYMTIzNDU2Nzg5MGFiY2RlZmdoaWprbG1ub3A"
PLANTED = "planted-S3cret"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Give the standard library's loggers back as they were."""
    root = logging.getLogger()
    names = ("httpx2", "httpcore2", "mcp", "asyncpg", "asyncio", "uvicorn.access")
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, one in levels.items():
        logging.getLogger(name).setLevel(one)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def configured(output: Literal["json", "console"] = "json", **options: Any) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(output=output, stream=stream, **options)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


SENSITIVE = [
    ("authorization", PLANTED),
    ("Authorization", PLANTED),
    ("token", PLANTED),
    ("access_token", PLANTED),
    ("refreshToken", PLANTED),
    ("tokens", [PLANTED]),
    ("client_secret", PLANTED),
    ("client-secret", PLANTED),
    ("password", {"inner": PLANTED}),
    ("set-cookie", PLANTED),
    ("api_key", PLANTED),
    ("x-api-key", PLANTED),
    ("apiKey", PLANTED),
    ("keyring", PLANTED),
    ("database_url", f"postgresql://u:{PLANTED}@h/d"),
    ("Mcp-Session-Id", PLANTED),
    ("code_verifier", PLANTED),
    ("headers", {"Authorization": PLANTED, "cookie": PLANTED}),
    ("headers", [{"nested": {"token_value": PLANTED}}]),
    ("reason", f"bad header Bearer {PLANTED}"),
    ("reason", f"authorization: bearer {PLANTED}"),
    ("reason", f"Authorization: Basic {PLANTED}=="),
    ("reason", f"password={PLANTED}&x=1"),
    ("reason", f'{{"client_secret": "{PLANTED}"}}'),
    ("reason", f'{{\\"api_key\\": \\"{PLANTED}\\"}}'),
    ("reason", f"token='{PLANTED}'"),
    ("url", f"https://user:{PLANTED}@example.com/x"),
    ("url", f"https://example.com/cb?access_token={PLANTED}&state=1"),
    ("url", f"https://example.com/cb?x=1&api_key={PLANTED}"),
    ("pem", f"-----BEGIN PRIVATE KEY-----\n{PLANTED}\n-----END PRIVATE KEY-----"),
    ("pem", f"-----BEGIN EC PRIVATE KEY-----\n{PLANTED}"),
    ("model", SecretStr(PLANTED)),
    ("raw", PLANTED.encode()),
    ("deep", {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": PLANTED}}}}}}}}}),
]


@pytest.mark.parametrize("output", ["json", "console"])
@pytest.mark.parametrize(("key", "value"), SENSITIVE)
def test_a_planted_secret_is_not_in_the_output(key: str, value: object, output: Literal["json", "console"]) -> None:
    stream = configured(output)
    structlog.get_logger("x").info("something_happened", **{key: value})
    logging.getLogger("uvicorn.error").info("something_happened %s", {key: value})
    written = stream.getvalue()
    assert written.count("something_happened") == 2
    assert PLANTED not in written.splitlines()[0]
    if key not in {"deep", "raw"}:
        assert PLANTED not in written


@pytest.mark.parametrize(
    "secret", [JWT, SEALED, JWT.rpartition(".")[0] + ".", "ghp_" + "a1B2" * 9, "sk-" + "abc123" * 5]
)
@pytest.mark.parametrize("frame", ["{}", "got {} here", "x={};", '"{}"', "[{}]", "https://h/p?q={}", "({})"])
def test_what_looks_like_a_credential_is_masked_wherever_it_stands(secret: str, frame: str) -> None:
    stream = configured()
    structlog.get_logger().info("seen", note=frame.format(secret), many=[{"x": (secret,), secret: 1}])
    written = stream.getvalue()
    assert secret[8:24] not in written
    assert written.count(REDACTED) == 3


@pytest.mark.parametrize(
    "harmless",
    [
        "3f2b8a52-8d4e-4c57-9a3e-0f6e1c2d3b4a",
        "https://example.com/mcp/acme/main",
        "token_bucket refilled",
        "the token was refused",
        "5d41402abc4b2a76b9719d911017c592",
        "/mcp/{org}/{workspace}",
        "agentapi.observability.middleware",
    ],
)
def test_ordinary_values_stay(harmless: str) -> None:
    assert scrub(harmless) == harmless
    assert redact(None, "info", {"reason": harmless, "token_count": 3, "ok": True}) == {
        "reason": harmless,
        "token_count": 3,
        "ok": True,
    }


@given(
    st.text(alphabet="abcABC019_-", min_size=12, max_size=60),
    st.sampled_from(["Bearer {}", "token={}", "password: {}"]),
)
def test_no_token_survives_behind_its_name(token: str, frame: str) -> None:
    assert token not in scrub(frame.format(token))
    assert REDACTED in scrub(frame.format(token))


@pytest.mark.parametrize("output", ["json", "console"])
def test_exceptions_are_told_without_locals_and_redacted(output: Literal["json", "console"]) -> None:
    stream = configured(output)

    def inner(password: str) -> None:
        hidden_local = f"{password}-local"
        raise ValueError(f"cannot log in with password={password}" + hidden_local[:0])

    try:
        try:
            inner(PLANTED)
        except ValueError as error:
            raise RuntimeError(f"Bearer {JWT}") from error
    except RuntimeError:
        structlog.get_logger().exception("call_failed")
        logging.getLogger("mcp.client").exception("call failed")
    written = stream.getvalue()
    assert written.count("ValueError") >= 2
    assert "test_logs.py" in written
    assert PLANTED not in written
    assert JWT not in written


def test_both_worlds_write_the_same_shape() -> None:
    stream = configured()
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger().warning("ours_happened", size=3)
        logging.getLogger("asyncpg").warning("theirs %s", "happened")
    ours, theirs = lines(stream)
    assert ours.pop("timestamp").endswith("Z")
    assert theirs.pop("timestamp").endswith("Z")
    assert ours == {"event": "ours_happened", "level": "warning", "request_id": "r1", "size": 3}
    assert theirs == {"event": "theirs happened", "level": "warning", "request_id": "r1", "logger": "asyncpg"}


def test_the_level_holds_and_chatty_libraries_are_quiet_even_at_debug() -> None:
    stream = configured(level="warning")
    structlog.get_logger().info("not_written")
    logging.getLogger("uvicorn").info("not written")
    structlog.get_logger().warning("written")
    assert [line["event"] for line in lines(stream)] == ["written"]
    stream = configured(level="debug")
    logging.getLogger("httpx2").info("HTTP Request: GET https://h/?code=abc")
    logging.getLogger("httpcore2.connection").debug("connect_tcp")
    logging.getLogger("mcp.client.streamable_http").debug("Sending message")
    logging.getLogger("uvicorn.access").info("GET /?code=abc")
    logging.getLogger("asyncio").debug("Using selector")
    structlog.get_logger().debug("written")
    assert [line["event"] for line in lines(stream)] == ["written"]


def test_an_entry_is_one_line_and_text_cannot_forge_another() -> None:
    stream = configured()
    structlog.get_logger().info("seen", note='x\n{"event": "forged"}\u2028')
    assert len(stream.getvalue().splitlines()) <= 2
    assert [line for line in stream.getvalue().split("\n") if line.startswith('{"event": "forged"')] == []


def test_objects_are_text_and_a_model_does_not_open_its_secret() -> None:
    class Account(BaseModel):
        name: str
        key: SecretStr

    stream = configured()
    structlog.get_logger().info("seen", account=Account(name="a", key=SecretStr(PLANTED)))
    assert PLANTED not in stream.getvalue()
    assert "name='a'" in lines(stream)[0]["account"]


def test_warnings_go_the_same_way() -> None:
    stream = configured()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"token={PLANTED}", UserWarning, stacklevel=1)
    logging.captureWarnings(capture=False)
    (line,) = lines(stream)
    assert line["logger"] == "py.warnings"
    assert PLANTED not in line["event"]


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    configure_from_settings(Settings(log_level="info", log_format="console"))
    structlog.get_logger().info("on_stderr")
    captured = capsys.readouterr()
    assert "on_stderr" in captured.err
    assert captured.out == ""
    assert sys.stderr is not None


REQUEST: dict[str, Any] = {
    "request_id": "r-1",
    "method": "POST",
    "path": "/mcp/{org}/{workspace}",
    "status": 200,
    "duration_ms": 0.25,
    "bytes_out": 300,
    "org": "acme",
    "workspace": "main",
    "user_id": UUID(int=7),
}


@given(
    st.fixed_dictionaries(
        {
            "request_id": st.from_regex(r"\A[A-Za-z0-9._-]{1,64}\Z") | st.just(JWT[:64]),
            "path": st.text(st.characters(exclude_categories=["C", "Z"]), max_size=80) | st.just(f"/x/{JWT}"),
            "status": st.integers(100, 599),
            "duration_ms": st.floats(0, 1e9).map(lambda value: round(value, 2)),
            "bytes_out": st.integers(0, 2**40),
        },
        optional={"error": st.just("RuntimeError"), "org": st.just("other")},
    )
)
def test_the_line_of_a_request_is_like_any_other(changes: dict[str, Any]) -> None:
    stream = configured()
    entry = {**REQUEST, **changes}
    log_request(
        structlog.get_logger(),
        entry["request_id"],
        entry["status"],
        entry["duration_ms"],
        entry["bytes_out"],
        *(entry.get(name) for name in COMMON),
    )
    structlog.get_logger().info("other", **entry)
    told, other = lines(stream)
    assert other.pop("event") == "other"
    assert told.pop("event") == "request"
    assert told.pop("timestamp") <= other.pop("timestamp")
    assert told == other
    assert JWT[:40] not in stream.getvalue()


def log_one() -> None:
    log_request(structlog.get_logger(), "r-1", 200, 0.25, 300, *(REQUEST.get(name) for name in COMMON))


def test_the_line_of_a_request_goes_where_all_others_go() -> None:
    stream = configured(level="warning")
    log_one()
    assert lines(stream) == []
    stream = configured(output="console")
    log_one()
    assert "request_id=r-1" in stream.getvalue()
    stream = configured()
    with structlog.testing.capture_logs() as captured:
        log_one()
    assert captured == [{"event": "request", "log_level": "info", **REQUEST}]
    assert lines(stream) == []
    log_one()
    assert [line["event"] for line in lines(stream)] == ["request"]

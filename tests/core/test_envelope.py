"""The envelope scan, against ``json`` as the slow and obvious reader."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentapi._core import Envelope, EnvelopeError, scan_envelope

VERSION = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
MAX_BYTES = 1 << 20
DEPTH = 8
ABSENT = object()

PARSE_ERRORS = {"invalid_utf8", "invalid_json", "lone_surrogate", "number_out_of_range"}
STRUCTURE_ERRORS = {"too_large", "too_deep", "duplicate_key", "batch", "not_an_object"}
MESSAGE_ERRORS = {"bad_version", "bad_id", "bad_method", "bad_params", "bad_meta", "not_a_message"}


class RefusedError(Exception):
    """The oracle's reason."""


def scan(body: bytes | str, **limits: int) -> Envelope:
    return scan_envelope(
        body.encode() if isinstance(body, str) else body, **{"max_bytes": MAX_BYTES, "max_depth": DEPTH, **limits}
    )


def refusal(body: bytes | str, **limits: int) -> EnvelopeError:
    with pytest.raises(EnvelopeError) as caught:
        scan(body, **limits)
    return caught.value


# The oracle.


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise RefusedError("duplicate_key")
    return dict(pairs)


def constant(name: str) -> Any:
    raise RefusedError(f"invalid_json: {name}")


def number(text: str) -> Any:
    value = int(text) if text.lstrip("-").isdigit() and text != "-0" else float(text)
    if len(text) > 1024 or math.isinf(float(text)):
        raise RefusedError("number_out_of_range")
    return value


def depth_of(value: Any) -> int:
    if isinstance(value, dict | list):
        children = value.values() if isinstance(value, dict) else value
        return 1 + max((depth_of(child) for child in children), default=0)
    return 0


def read(body: bytes) -> Any:
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=unique,
            parse_constant=constant,
            parse_int=number,
            parse_float=number,
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise RefusedError("not JSON that could be written again") from error
    if depth_of(value) > DEPTH:
        raise RefusedError("too_deep")
    return value


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_id(value: Any) -> bool:
    return (isinstance(value, str) and len(value) < 100) or (is_integer(value) and -(2**63) <= value < 2**63)


def expected(body: bytes) -> dict[str, Any]:
    """What ``json`` makes of the message; raises ``RefusedError`` if it is none."""
    message = read(body)
    if not isinstance(message, dict):
        raise RefusedError("batch" if isinstance(message, list) else "not_an_object")
    if message.get("jsonrpc") != "2.0":
        raise RefusedError("bad_version")
    marks = [mark for mark in ("method", "result", "error") if mark in message]
    if len(marks) != 1:
        raise RefusedError("not_a_message")
    given_id = message.get("id", ABSENT)
    if "method" not in message:
        if not is_id(given_id) and not ("error" in message and given_id in (None, ABSENT)):
            raise RefusedError("bad_id")
        return {
            "kind": "response",
            "id": None if given_id is ABSENT else given_id,
            "method": None,
            "params": ABSENT,
            "result": message.get("result"),
        }
    if given_id is not ABSENT and not is_id(given_id):
        raise RefusedError("bad_id")
    if not isinstance(message["method"], str) or len(message["method"].encode()) > 128:
        raise RefusedError("bad_method")
    params = message.get("params")
    if not isinstance(params, dict | None):
        raise RefusedError("bad_params")
    if not isinstance((params or {}).get("_meta"), dict | None):
        raise RefusedError("bad_meta")
    return {
        "kind": "notification" if given_id is ABSENT else "request",
        "id": None if given_id is ABSENT else given_id,
        "method": message["method"],
        "params": message.get("params", ABSENT),
    }


def oracle(body: bytes) -> dict[str, Any] | str:
    try:
        return expected(body)
    except RefusedError as error:
        return str(error)


def code_of(reason: str) -> int:
    if reason in PARSE_ERRORS:
        return -32700
    return -32602 if reason in {"bad_params", "bad_meta"} else -32600


def check_refusal(body: bytes, reason: str) -> None:
    found = refusal(body)
    assert found.reason in PARSE_ERRORS | STRUCTURE_ERRORS | MESSAGE_ERRORS
    assert found.jsonrpc_code == code_of(found.reason)
    if reason in MESSAGE_ERRORS | {"batch", "not_an_object"}:
        assert found.reason == reason
    if found.id_json is not None:
        assert is_id(json.loads(found.id_json))


def check_against_the_oracle(body: bytes) -> bool:
    """Whether the message was accepted."""
    answer = oracle(body)
    if isinstance(answer, str):
        check_refusal(body, answer)
        return False
    found = scan(body)
    params = answer["params"] if isinstance(answer["params"], dict) else {}
    meta = params.get("_meta") or {}
    text = {name: params.get(name) for name in ("name", "uri", "requestState")}
    text["version"] = meta.get(VERSION)
    text = {name: value if isinstance(value, str) else None for name, value in text.items()}
    assert (found.kind, found.method) == (answer["kind"], answer["method"])
    assert (found.id, type(found.id)) == (answer["id"], type(answer["id"]))
    assert (found.name, found.uri) == (text["name"], text["uri"])
    assert (found.request_state, found.protocol_version) == (text["requestState"], text["version"])
    assert found.has_meta == isinstance(params.get("_meta"), dict)
    assert found.has_plain_params == (
        found.kind != "response"
        and isinstance(params.get("arguments", {}), dict)
        and isinstance(params.get("requestState"), str | None)
        and "inputResponses" not in params
    )
    token = meta.get("progressToken")
    assert found.has_progress_token == (isinstance(token, str) or is_integer(token))
    result = answer.get("result")
    kind = result.get("resultType") if isinstance(result, dict) else None
    assert found.result_type == (kind if isinstance(kind, str) else None)
    for span, value in (
        (found.params_range, answer["params"]),
        (found.name_range, params.get("name", ABSENT)),
        (found.uri_range, params.get("uri", ABSENT)),
        (found.request_state_range, params.get("requestState", ABSENT)),
        (found.meta_range, params.get("_meta", ABSENT)),
        (found.id_range, json.loads(body).get("id", ABSENT)),
    ):
        assert (span is None) == (value is ABSENT)
        if span is not None:
            assert json.loads(body[slice(*span)]) == value
            assert body[slice(*span)].strip() == body[slice(*span)]
    assert found.id_json == (None if found.id_range is None else body[slice(*found.id_range)])
    return True


# Messages that are nearly right more often than not.

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**63) - 2, -(2**63) + 2)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=12),
    max_leaves=12,
)
ids = st.integers() | st.text(max_size=20) | scalars
metas = st.fixed_dictionaries(
    {},
    optional={
        VERSION: st.just("2026-07-28") | values,
        CAPABILITIES: values,
        "progressToken": ids,
        "name": values,
        "x": values,
    },
)
all_params = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(max_size=40) | values,
        "uri": st.text(max_size=40) | values,
        "requestState": st.text(max_size=40) | values,
        "_meta": metas | metas | values,
        "arguments": st.dictionaries(st.text(max_size=4), scalars, max_size=2) | values,
        "inputResponses": values,
        "method": values,
    },
)
types = st.sampled_from(["complete", "input_required", "resultType"]) | values
results = st.dictionaries(
    st.sampled_from(["resultType", "content"]),
    types | st.fixed_dictionaries({"resultType": types}) | st.lists(st.fixed_dictionaries({"resultType": types})),
) | st.sampled_from(["resultType", ["resultType"]])
messages = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0") | st.just("2.0") | st.just("2.0") | values},
    optional={
        "id": ids,
        "method": st.sampled_from(["tools/call", "prompts/get", "m" * 128, "m" * 129, "\u00e9" * 64]) | values,
        "params": all_params | all_params | values,
        "result": results | values,
        "error": values,
        "trace": values,
    },
)
responses = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0"), "id": ids.filter(is_id), "result": results}, optional={"extra": results}
)
calls = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0"), "method": st.text(max_size=40)},
    optional={"id": ids.filter(is_id), "params": all_params, "extra": values},
)


@st.composite
def texts(draw: st.DrawFn, source: st.SearchStrategy[Any]) -> bytes:
    """A message in one of the many ways to write it."""
    message = draw(source)
    if isinstance(message, dict):
        message = dict(draw(st.permutations(list(message.items()))))
    indent = draw(st.sampled_from([None, 0, 2, "\t"]))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\r\n", "\t: ")]))
    written = json.dumps(message, ensure_ascii=draw(st.booleans()), indent=indent, separators=separators)
    around = draw(st.sampled_from(["", " ", "\n\t\r "]))
    return f"{around}{written}{around}".encode("utf-8", "surrogatepass")


FRAGMENTS = [
    *(bytes([byte]) for byte in b'{}[]",:\\-+.0123456789eEtfnu \t\n\r/\x00\x1f\x7f\x80\xbf\xc0\xed\xf4\xff'),
    b"null",
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-0",
    b"01",
    b"1.",
    b".5",
    b"1e5",
    b"\\u0061",
    b"\\u0000",
    b"\\ud83d\\ude00",
    b"\\ud83d",
    b"\\ude00",
    b"\\u00e",
    b"\xef\xbb\xbf",
    b"\xed\xa0\xbd",
    b"\xf0\x9f\x98\x80",
    b'"id":1,',
    b'"\\u0069d":2,',
    b'"method":"a",',
    b'"name":"b",',
    b'"_meta":{},',
    b'"jsonrpc":"2.0",',
    b"[[[[[[[[[",
    b"// comment",
    b"'",
]


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    body = draw(texts(calls | responses | messages))
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, len(body))), draw(st.integers(0, 8))
        body = body[:at] + draw(st.sampled_from(FRAGMENTS) | st.just(b"")) + body[at + length * draw(st.booleans()) :]
    return body


@given(texts(calls))
def test_reads_calls_as_json_does(body: bytes) -> None:
    check_against_the_oracle(body)


@given(texts(responses))
def test_reads_responses_as_json_does(body: bytes) -> None:
    check_against_the_oracle(body)


@settings(max_examples=500)
@given(texts(messages | values))
def test_reads_messages_as_json_does(body: bytes) -> None:
    check_against_the_oracle(body)


@settings(max_examples=1000)
@given(mutations())
@example(b"")
@example(b'{"jsonrpc":"2.0","method":"a","id":-0}')
def test_reads_mutated_messages_as_json_does(body: bytes) -> None:
    check_against_the_oracle(body)


@settings(max_examples=500)
@given(st.binary(max_size=64) | st.lists(st.sampled_from(FRAGMENTS), max_size=30).map(b"".join))
def test_reads_arbitrary_bytes_as_json_does(body: bytes) -> None:
    check_against_the_oracle(body)


@given(st.text(max_size=300).map(lambda text: json.dumps(text, ensure_ascii=False)), st.integers(0, 9))
def test_strings_of_every_length_and_alignment(written: str, shift: int) -> None:
    head = '{"jsonrpc":"2.0","id":1,"method":"m","params":{"name":'
    assert check_against_the_oracle(f"{' ' * shift}{head}{written}}}}}".encode())


# Shown by example.

CALL = {
    "jsonrpc": "2.0",
    "id": "a-1",
    "method": "tools/call",
    "params": {
        "name": "github__search",
        "arguments": {"name": "not this one", "_meta": {}, "text": 'a "quoted" \u00e9\U0001f600'},
        "requestState": "sealed",
        "_meta": {VERSION: "2026-07-28", CAPABILITIES: {}, "progressToken": 7},
    },
}


def test_a_relay_rewrites_by_ranges() -> None:
    body = json.dumps(CALL).encode()
    found = scan(body)
    assert (found.kind, found.method, found.id, found.id_json) == ("request", "tools/call", "a-1", b'"a-1"')
    assert (found.name, found.uri, found.request_state) == ("github__search", None, "sealed")
    assert (found.protocol_version, found.has_meta) == ("2026-07-28", True)
    assert (found.has_plain_params, found.has_progress_token) == (True, True)
    assert found.name_range is not None
    start, end = found.name_range
    sent = json.loads(body[:start] + b'"search"' + body[end:])
    assert sent == {**CALL, "params": {**CALL["params"], "name": "search"}}  # type: ignore[dict-item]
    assert repr(found) == 'Envelope(kind="request")'


def test_a_response_and_a_notification() -> None:
    answer = scan('{"result":{"name":"x"},"id":7,"jsonrpc":"2.0","params":{"name":"y"}}')
    assert (answer.kind, answer.id, answer.method, answer.name, answer.name_range) == ("response", 7, None, None, None)
    notice = scan('{"jsonrpc":"2.0","method":"notifications/cancelled"}')
    assert (notice.kind, notice.id, notice.id_json, notice.params_range) == ("notification", None, None, None)
    failure = scan('{"jsonrpc":"2.0","id":null,"error":{}}')
    assert (failure.kind, failure.id, failure.id_json) == ("response", None, b"null")


def call(members: str) -> str:
    return f'{{"jsonrpc":"2.0","id":1,"method":"m",{members}}}'


@pytest.mark.parametrize(
    ("body", "reason", "id_json"),
    [
        (b"", "invalid_json", None),
        (b"   ", "invalid_json", None),
        (b"\xef\xbb\xbf{}", "invalid_json", None),
        ("{}".encode("utf-16"), "invalid_utf8", None),
        ("{}".encode("utf-16-le"), "invalid_json", None),
        ("{}".encode("utf-32-le"), "invalid_json", None),
        (b'{"a":"\xed\xa0\x80"}', "invalid_utf8", None),
        (b'{"a":"\xc0\x80"}', "invalid_utf8", None),
        (b'{"a":"\x00"}', "invalid_json", None),
        (b'{"a":"\n"}', "invalid_json", None),
        ('{"a":"\\ud800"}', "lone_surrogate", None),
        ('{"a":"\\udc00\\ud800"}', "lone_surrogate", None),
        ('{"a":"\\ud800\\ud800"}', "lone_surrogate", None),
        ('{"a":"\\ud800x"}', "lone_surrogate", None),
        (call('"a":NaN'), "invalid_json", None),
        (call('"a":-Infinity'), "invalid_json", None),
        (call('"a":01'), "invalid_json", None),
        (call('"a":1.'), "invalid_json", None),
        (call('"a":+1'), "invalid_json", None),
        (call('"a":[1,]'), "invalid_json", None),
        (call('"a":1,'), "invalid_json", None),
        (call('"a":1') + "x", "invalid_json", None),
        (call('"a":1') + call('"a":1'), "invalid_json", None),
        (call('"a":1e999'), "number_out_of_range", None),
        (call('"a":-1E+309'), "number_out_of_range", None),
        (call(f'"a":{"9" * 400}.5'), "number_out_of_range", None),
        (call(f'"a":{"9" * 309}'), "number_out_of_range", None),
        (call(f'"a":0.{"9" * 1023}'), "number_out_of_range", None),
        (call(f'"a":{"9" * 5000}'), "number_out_of_range", None),
        (call('"id":1'), "duplicate_key", None),
        (call('"\\u0069d":2'), "duplicate_key", None),
        (call('"params":{"name":"a","n\\u0061me":"b"}'), "duplicate_key", b"1"),
        (call('"params":{"_meta":{"a":1,"a":1}}'), "duplicate_key", b"1"),
        (call('"params":{"arguments":[{"a":1,"b":2,"a":1}]}'), "duplicate_key", b"1"),
        (call('"params":{' + ",".join(f'"{n % 20}":1' for n in range(21)) + "}"), "duplicate_key", b"1"),
        (call('"\\ud83d\\ude00":1,"\U0001f600":2'), "duplicate_key", None),
        (call('"a":[[[[[[[[]]]]]]]]'), "too_deep", b"1"),
        ("[" * 100_000, "too_deep", None),
        ('{"a":' * 100_000, "too_deep", None),
        ("[]", "batch", None),
        ("[" + call('"a":1') + "]", "batch", None),
        ("1", "not_an_object", None),
        ("null", "not_an_object", None),
        ('{"id":1,"method":"m"}', "bad_version", b"1"),
        ('{"jsonrpc":"1.0","id":1,"method":"m"}', "bad_version", b"1"),
        ('{"jsonrpc":2.0,"id":1,"method":"m"}', "bad_version", b"1"),
        ('{"jsonrpc":"2.0","id":null,"method":"m"}', "bad_id", None),
        ('{"jsonrpc":"2.0","id":1.0,"method":"m"}', "bad_id", None),
        ('{"jsonrpc":"2.0","id":1e3,"method":"m"}', "bad_id", None),
        ('{"jsonrpc":"2.0","id":-0,"method":"m"}', "bad_id", None),
        ('{"jsonrpc":"2.0","id":true,"method":"m"}', "bad_id", None),
        ('{"jsonrpc":"2.0","id":[1],"method":"m"}', "bad_id", None),
        ('{"jsonrpc":"2.0","id":9223372036854775808,"method":"m"}', "bad_id", None),
        (f'{{"jsonrpc":"2.0","id":"{"x" * 1023}","method":"m"}}', "bad_id", None),
        ('{"jsonrpc":"2.0","result":{}}', "bad_id", None),
        ('{"jsonrpc":"2.0","id":null,"result":{}}', "bad_id", None),
        ('{"jsonrpc":"2.0","id":{},"error":{}}', "bad_id", None),
        ('{"jsonrpc":"2.0","id":1,"method":null}', "bad_method", b"1"),
        (f'{{"jsonrpc":"2.0","id":1,"method":"{"m" * 129}"}}', "bad_method", b"1"),
        (call('"params":[]'), "bad_params", b"1"),
        (call('"params":"x"'), "bad_params", b"1"),
        (call('"params":{"_meta":[]}'), "bad_meta", b"1"),
        (call('"result":{}'), "not_a_message", b"1"),
        ('{"jsonrpc":"2.0","id":"\\u0061"}', "not_a_message", b'"\\u0061"'),
        ('{"jsonrpc":"2.0","id":1,"result":{},"error":{}}', "not_a_message", b"1"),
    ],
)
def test_refuses(body: bytes | str, reason: str, id_json: bytes | None) -> None:
    error = refusal(body)
    assert (error.reason, str(error), error.id_json) == (reason, reason, id_json)
    assert error.jsonrpc_code == code_of(reason)
    check_against_the_oracle(body if isinstance(body, bytes) else body.encode())


@pytest.mark.parametrize(
    "body",
    [
        call('"trace":{"any":["thing"]}'),
        call('"params":null'),
        call('"params":{"_meta":null}'),
        call('"params":{"name":7,"uri":null,"requestState":[]}'),
        call('"a":[[[[[[[]]]]]]]'),
        call(f'"a":{"9" * 308}'),
        call(f'"a":0.{"9" * 1022}'),
        call('"a":"\\ud83d\\ude00\\u0000\\/\\b\\f\\n\\r\\t\\"\\\\"'),
        call('"a":1e308'),
        call('"a":5e-999'),
        '{"jsonrpc":"2.0","id":-9223372036854775808,"method":""}',
        '{"jsonrpc":"2.0","error":{"code":1}}',
        f'{{"jsonrpc":"2.0","id":1,"m\\u0065thod":"{"m" * 128}"}}',
    ],
)
def test_accepts(body: str) -> None:
    assert check_against_the_oracle(body.encode())


def test_limits_are_exact() -> None:
    body = call('"a":[[[]]]')
    assert scan(body, max_bytes=len(body), max_depth=4).id == 1
    assert refusal(body, max_bytes=len(body) - 1).reason == "too_large"
    assert refusal(body, max_depth=3).reason == "too_deep"
    deep = call(f'"a":{"[" * 255}{"]" * 255}')
    assert scan(deep, max_depth=256).id == 1
    for depth in (0, 257):
        with pytest.raises(ValueError, match="1 to 256"):
            scan(body, max_depth=depth)
    assert scan_envelope(call(f'"a":{"[" * 63}{"]" * 63}').encode(), max_bytes=1000).id == 1
    with pytest.raises(EnvelopeError, match="too_deep"):
        scan_envelope(call(f'"a":{"[" * 64}{"]" * 64}').encode(), max_bytes=1000)


def test_an_envelope_is_made_by_scanning_only() -> None:
    with pytest.raises(TypeError):
        Envelope()
    with pytest.raises(TypeError):
        scan_envelope(call('"a":1'), max_bytes=100)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        scan(call('"a":1')).method = "other"  # type: ignore[misc]


def test_threads_scan_side_by_side() -> None:
    bodies = [json.dumps({**CALL, "id": number}).encode() for number in range(1000)]
    with ThreadPoolExecutor(8) as pool:
        assert [found.id for found in pool.map(scan, bodies)] == list(range(1000))

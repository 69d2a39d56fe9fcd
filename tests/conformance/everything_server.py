"""The server that the conformance suite expects: what each of its scenarios calls, by the suite's own names.

``python -m conformance.everything_server`` serves both eras over Streamable HTTP until its standard input ends.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import struct
import sys
import warnings
import wave
import zlib
from typing import TYPE_CHECKING, Any

import anyio
import uvloop
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp.shared.subscriptions import PromptsListChanged, ToolsListChanged

from support.serving import serve
from support.wire_server import Request, WireServer, text

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["build"]

_STEP_S = 0.05


def _png() -> str:
    """Return one red pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\x00\xff\x00\x00"))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")).decode()


def _wav() -> str:
    """Return one sample of silence."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setparams((1, 2, 8000, 1, "NONE", "not compressed"))
        sound.writeframes(b"\x00\x00")
    return base64.b64encode(buffer.getvalue()).decode()


_IMAGE = {"type": "image", "data": _png(), "mimeType": "image/png"}
_AUDIO = {"type": "audio", "data": _wav(), "mimeType": "audio/wav"}


def _embedded(uri: str, mime_type: str, content: str) -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": content}}


def _arguments(*names: str, **properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(names)}


def _form(message: str, *required: str, **properties: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return an elicitation."""
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return "elicitation/create", {"message": message, "requestedSchema": schema}


def _prompted(prompt: str, max_tokens: int = 100) -> tuple[str, dict[str, Any]]:
    """Return a sampling request."""
    messages = [{"role": "user", "content": {"type": "text", "text": prompt}}]
    return "sampling/createMessage", {"messages": messages, "maxTokens": max_tokens}


_ROUNDS = "test_input_required_result_"
_ROOTS: tuple[str, dict[str, Any]] = ("roots/list", {})
_STRING = {"type": "string"}
_BOOLEAN = {"type": "boolean"}
_NAME = {"user_name": _form("What is your name?", "name", name=_STRING)}


def _add_contents(server: WireServer) -> None:
    @server.tool("test_simple_text", "Return text.")
    async def simple_text(_: Request) -> dict[str, Any]:
        return text("This is a simple text response for testing.")

    @server.tool("test_image_content", "Return an image.")
    async def image(_: Request) -> dict[str, Any]:
        return {"content": [_IMAGE]}

    @server.tool("test_audio_content", "Return a sound.")
    async def audio(_: Request) -> dict[str, Any]:
        return {"content": [_AUDIO]}

    @server.tool("test_embedded_resource", "Return a resource.")
    async def embedded_resource(_: Request) -> dict[str, Any]:
        return {"content": [_embedded("test://embedded-resource", "text/plain", "This is embedded.")]}

    @server.tool("test_multiple_content_types", "Return one of each.")
    async def multiple(_: Request) -> dict[str, Any]:
        document = _embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
        return {"content": [{"type": "text", "text": "Multiple content types:"}, _IMAGE, document]}

    @server.tool("test_error_handling", "Fail.")
    async def error_handling(_: Request) -> dict[str, Any]:
        return {**text("This tool intentionally returns an error for testing"), "isError": True}

    @server.tool(
        "json_schema_2020_12_tool",
        "Keep the keywords of JSON Schema 2020-12.",
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "$defs": {
                "address": {
                    "$anchor": "addressDef",
                    "type": "object",
                    "properties": {"street": _STRING, "city": _STRING},
                }
            },
            "properties": {
                "name": _STRING,
                "address": {"$ref": "#/$defs/address"},
                "contactMethod": {"type": "string", "enum": ["phone", "email"]},
                "phone": _STRING,
                "email": _STRING,
            },
            "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
            "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
            "then": {"required": ["phone"]},
            "else": {"required": ["email"]},
            "additionalProperties": False,
        },
    )
    async def schema(request: Request) -> dict[str, Any]:
        return text(json.dumps(request.arguments))

    @server.tool(
        "test_parameter_header",
        "Take an argument that is mirrored in a header.",
        _arguments("region", region={"type": "string", "x-mcp-header": "Region"}),
    )
    async def parameter_header(request: Request) -> dict[str, Any]:
        return text(request.arguments["region"])


def _add_messages(server: WireServer) -> None:
    @server.tool("test_tool_with_logging", "Log three times.")
    async def logging_thrice(request: Request) -> dict[str, Any]:
        await request.log("info", "Tool execution started")
        await anyio.sleep(_STEP_S)
        await request.log("info", "Tool processing data")
        await anyio.sleep(_STEP_S)
        await request.log("info", "Tool execution completed")
        return text("Logged.")

    @server.tool("test_logging_tool", "Log where the request asks for it.")
    async def logging_once(request: Request) -> dict[str, Any]:
        await request.log("info", "Only for who asked for it")
        return text("Logged, perhaps.")

    @server.tool("test_tool_with_progress", "Report progress.")
    async def progress(request: Request) -> dict[str, Any]:
        await request.progress(0, 100)
        await anyio.sleep(_STEP_S)
        await request.progress(50, 100)
        await anyio.sleep(_STEP_S)
        await request.progress(100, 100)
        return text("Done.")

    @server.tool("test_trigger_tool_change", "Add a tool, or take it away again.")
    async def tool_change(_: Request) -> dict[str, Any]:
        if server.tools.pop("test_changing_tool", None) is None:
            server.tool("test_changing_tool", "Come and go.")(tool_change)
        await server.bus.publish(ToolsListChanged())
        return text("Changed.")

    @server.tool("test_trigger_prompt_change", "Add a prompt, or take it away again.")
    async def prompt_change(_: Request) -> dict[str, Any]:
        if server.prompts.pop("test_changing_prompt", None) is None:
            server.prompt("test_changing_prompt", "Come and go.")(server.prompts["test_simple_prompt"][1])
        await server.bus.publish(PromptsListChanged())
        return text("Changed.")


def _add_questions(server: WireServer) -> None:
    """Add what asks the client in the midst of a call; only the older revisions know these tools."""

    @server.tool("test_sampling", "Ask the client's model.", _arguments("prompt", prompt=_STRING))
    async def sampling(request: Request) -> dict[str, Any]:
        answer = await request.inputs({"answer": _prompted(request.arguments["prompt"])})
        return text(f"LLM response: {answer['answer']['content']['text']}")

    @server.tool("test_elicitation", "Ask the user.", _arguments("message", message=_STRING))
    async def elicitation(request: Request) -> dict[str, Any]:
        form = _form(request.arguments["message"], "username", "email", username=_STRING, email=_STRING)
        answer = await request.inputs({"answer": form})
        return text(f"User response: {json.dumps(answer['answer'])}")

    @server.tool("test_elicitation_sep1034_defaults", "Ask with a default for each kind of value.")
    async def defaults(request: Request) -> dict[str, Any]:
        form = _form(
            "Please look at the defaults.",
            name={"type": "string", "default": "John Doe"},
            age={"type": "integer", "default": 30},
            score={"type": "number", "default": 95.5},
            status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
            verified={"type": "boolean", "default": True},
        )
        answer = await request.inputs({"answer": form})
        return text(f"Elicitation completed: {json.dumps(answer['answer'])}")

    @server.tool("test_elicitation_sep1330_enums", "Ask with each kind of choice.")
    async def enums(request: Request) -> dict[str, Any]:
        plain = ["option1", "option2", "option3"]
        titled = [{"const": f"value{n}", "title": f"Choice {n}"} for n in (1, 2, 3)]
        form = _form(
            "Please choose.",
            untitledSingle={"type": "string", "enum": plain},
            titledSingle={"type": "string", "oneOf": titled},
            legacyEnum={"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]},
            untitledMulti={"type": "array", "items": {"type": "string", "enum": plain}},
            titledMulti={"type": "array", "items": {"anyOf": titled}},
        )
        answer = await request.inputs({"answer": form})
        return text(f"Elicitation completed: {json.dumps(answer['answer'])}")

    @server.tool("test_missing_capability", "Need what the client must have declared.")
    async def missing_capability(request: Request) -> dict[str, Any]:
        request.require("sampling")
        return text("The client has it.")

    @server.tool("test_streaming_elicitation", "Report progress, then ask the user.")
    async def streaming_elicitation(request: Request) -> dict[str, Any]:
        await request.progress(1, 2)
        answer = await request.inputs(_NAME)
        return text(json.dumps(answer["user_name"]))


def _add_rounds(server: WireServer) -> None:
    """Add what is called again with the client's answers."""
    prefix = _ROUNDS

    @server.tool(f"{prefix}elicitation", "Ask for a name.")
    async def elicitation(request: Request) -> dict[str, Any]:
        answer = await request.inputs(_NAME)
        return text(f"Hello, {answer['user_name'].get('content', {}).get('name')}!")

    @server.tool(f"{prefix}sampling", "Ask the client's model.")
    async def sampling(request: Request) -> dict[str, Any]:
        answer = await request.inputs({"capital_question": _prompted("What is the capital of France?")})
        return text(json.dumps(answer["capital_question"]["content"]))

    @server.tool(f"{prefix}list_roots", "Ask for the client's roots.")
    async def roots(request: Request) -> dict[str, Any]:
        answer = await request.inputs({"client_roots": _ROOTS})
        return text(json.dumps(answer["client_roots"]["roots"]))

    @server.prompt(f"{prefix}prompt", "A prompt that asks first.")
    async def prompt(request: Request) -> dict[str, Any]:
        form = _form("What context should the prompt use?", "context", context=_STRING)
        answer = await request.inputs({"user_context": form})
        return _messages({"type": "text", "text": json.dumps(answer["user_context"])})


def _add_rounds_with_state(server: WireServer) -> None:
    prefix = _ROUNDS

    @server.tool(f"{prefix}request_state", "Have the client keep a state.")
    async def request_state(request: Request) -> dict[str, Any]:
        await request.inputs({"confirm": _form("Please confirm", "ok", ok=_BOOLEAN)}, state="kept")
        return text("state-ok" if request.state == "kept" else "state-lost")

    @server.tool(f"{prefix}tampered_state", "Have the client keep a state that it must not change.")
    async def tampered_state(request: Request) -> dict[str, Any]:
        await request.inputs({"confirm": _form("Please confirm", "ok", ok=_BOOLEAN)}, state="sealed")
        return text("The state came back unchanged.")

    @server.tool(f"{prefix}multiple_inputs", "Ask three questions at once.")
    async def multiple(request: Request) -> dict[str, Any]:
        questions = {**_NAME, "greeting": _prompted("Generate a greeting", 50), "client_roots": _ROOTS}
        answers = await request.inputs(questions, state="asked")
        return text(json.dumps(sorted(answers)))

    @server.tool(f"{prefix}multi_round", "Ask one question after the other.")
    async def multi_round(request: Request) -> dict[str, Any]:
        if request.state is None or request.state == "first":
            first = {"step1": _form("Step 1: What is your name?", "name", name=_STRING)}
            given = await request.inputs(first, state="first")
            asked = given["step1"]["content"]["name"]
        else:
            asked = request.state
        second = {"step2": _form("Step 2: What is your favorite color?", "color", color=_STRING)}
        color = (await request.inputs(second, state=asked))["step2"]["content"]["color"]
        return text(f"{asked} likes {color}.")

    @server.tool(f"{prefix}capabilities", "Ask what the client can be asked.")
    async def capabilities(request: Request) -> dict[str, Any]:
        questions = {
            "elicitation": _NAME["user_name"],
            "sampling": _prompted("Say hello."),
            "roots": _ROOTS,
        }
        asked = {key: question for key, question in questions.items() if key in request.capabilities}
        return text(json.dumps(sorted(await request.inputs(asked))))


def _messages(*contents: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content} for content in contents]}


def _add_prompts(server: WireServer) -> None:
    @server.prompt("test_simple_prompt", "A prompt.")
    async def simple(_: Request) -> dict[str, Any]:
        return _messages({"type": "text", "text": "This is a simple prompt for testing."})

    @server.prompt("test_prompt_with_arguments", "A prompt with arguments.", "arg1", "arg2")
    async def with_arguments(request: Request) -> dict[str, Any]:
        given = request.arguments
        said = f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'"
        return _messages({"type": "text", "text": said})

    @server.prompt("test_prompt_with_embedded_resource", "A prompt with a resource.", "resourceUri")
    async def with_resource(request: Request) -> dict[str, Any]:
        document = _embedded(request.arguments["resourceUri"], "text/plain", "Embedded content.")
        return _messages(document, {"type": "text", "text": "Please process the embedded resource above."})

    @server.prompt("test_prompt_with_image", "A prompt with an image.")
    async def with_image(_: Request) -> dict[str, Any]:
        return _messages(_IMAGE, {"type": "text", "text": "Please analyze the image above."})

    server.completions = lambda request: [
        value for value in ("test1", "test2", "paris") if value.startswith(request.params["argument"]["value"])
    ]


def _add_resources(server: WireServer) -> None:
    @server.resource("test://static-text", "static text", "text/plain")
    async def static_text(request: Request) -> dict[str, Any]:
        return _contents(request, "text/plain", text="This is the content of the static text resource.")

    @server.resource("test://static-binary", "static binary", "image/png")
    async def static_binary(request: Request) -> dict[str, Any]:
        return _contents(request, "image/png", blob=_png())

    @server.resource("test://watched-resource", "watched resource", "text/plain")
    async def watched(request: Request) -> dict[str, Any]:
        return _contents(request, "text/plain", text="Watched.")

    @server.resource("test://template/{id}/data", "template", "application/json")
    async def template(request: Request) -> dict[str, Any]:
        found = {"id": request.variables["id"], "templateTest": True}
        return _contents(request, "application/json", text=json.dumps(found))


def _contents(request: Request, mime_type: str, **content: str) -> dict[str, Any]:
    return {"contents": [{"uri": request.params["uri"], "mimeType": mime_type, **content}]}


def build() -> WireServer:
    """Return the server with everything on it."""
    server = WireServer("everything")
    for add in (
        _add_contents,
        _add_messages,
        _add_questions,
        _add_rounds,
        _add_rounds_with_state,
        _add_prompts,
        _add_resources,
    ):
        add(server)
    return server


def main() -> None:
    """Serve until standard input ends."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    uvloop.run(serve(build().engine.streamable_http_app()))


if __name__ == "__main__":
    main()

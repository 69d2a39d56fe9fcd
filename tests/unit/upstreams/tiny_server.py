"""A stdio server of the older revisions in the standard library alone: starts fast, and misbehaves as it is told.

``python tiny_server.py [MANNER]``: ``polite`` answers what it knows, ``strict`` ends at anything ahead of
``initialize``, ``silent`` ignores it, ``crash`` ends at once, ``curious`` asks for the roots once it is initialized,
``stubborn`` ignores the end of its input and SIGTERM. What its tools do is in ``call``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

HUNG: list[object] = []
CANCELLED: list[object] = []
ANSWERED: list[object] = []


def send(*messages: dict[str, object]) -> None:
    sys.stdout.write("".join(json.dumps({"jsonrpc": "2.0", **message}) + "\n" for message in messages))
    sys.stdout.flush()


def text(words: object) -> dict[str, object]:
    return {"content": [{"type": "text", "text": str(words)}], "unknownField": {"kept": True}}


def call(name: str, arguments: dict[str, object]) -> dict[str, object] | None:
    if name == "exit":
        os._exit(int(str(arguments.get("code", 3))))
    if name == "large":
        return text("x" * int(str(arguments["size"])))
    if name == "child":
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        return text(child)
    if name == "noise":
        sys.stdout.write("Welcome to the server!\n{ not json\n[1, 2]\n\n")
        sys.stdout.flush()
    if name == "sample":
        send({"id": "q", "method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}})
        while (answer := json.loads(sys.stdin.readline())).get("id") != "q":
            pass
        return text(answer.get("result", answer.get("error")))
    if name == "answered":
        return text(json.dumps(ANSWERED))
    if name == "given-up":
        return text(json.dumps([HUNG, CANCELLED]))
    return None if name == "hang" else text(os.getpid() if name == "pid" else arguments.get("text", "ok"))


def answer(message: dict[str, object]) -> dict[str, object] | None:
    method, params = message["method"], message.get("params") or {}
    if not isinstance(params, dict):
        raise TypeError(params)
    if method == "initialize":
        capabilities: dict[str, object] = {"tools": {"listChanged": True}}
        info = {"name": "tiny", "version": "1", "pid": os.getpid(), "declared": params["capabilities"]}
        return {"protocolVersion": "2025-06-18", "capabilities": capabilities, "serverInfo": info}
    if method == "tools/call":
        return call(str(params["name"]), params.get("arguments") or {})
    # A cursor that is a number asks for a page of that size.
    more = {"padding": "x" * int(str(params["cursor"]))} if "cursor" in params else {}
    return {} if method == "ping" else {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}], **more}


def respond(message: dict[str, object], line: str) -> None:
    if message["method"] not in {"initialize", "tools/call", "tools/list", "ping"}:
        send({"id": message["id"], "error": {"code": -32601, "message": "Method not found"}})
        return
    result = answer(message)
    if result is None:
        HUNG.append(message["id"])
    else:
        question: dict[str, object] = {"id": "roots", "method": "roots/list"}
        # In one piece, so that the question is there when the answer is.
        send({"id": message["id"], "result": result}, *([question] if "ask-afterwards" in line else []))


def main(manner: str) -> None:  # noqa: C901 - one manner after the other
    if manner == "crash":
        sys.exit(7)
    if manner == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready = False
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("method") == "notifications/cancelled":
            CANCELLED.append(message["params"]["requestId"])
        if manner == "curious" and message.get("method") == "notifications/initialized":
            send({"id": "roots", "method": "roots/list"})
        if message.get("id") == "roots":
            ANSWERED.append(message.get("result", message.get("error")))
        if "id" not in message or "method" not in message:
            continue
        ready = ready or message["method"] == "initialize"
        if not ready and manner == "strict":
            sys.exit(1)
        if not ready and manner == "silent":
            continue
        respond(message, line)
    if manner == "stubborn":
        time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "polite")

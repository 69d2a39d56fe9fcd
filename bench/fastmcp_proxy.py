"""FastMCP's proxy before an upstream, to run with a Python that has ``fastmcp``: a peer, not a dependency.

``python bench/fastmcp_proxy.py URL [--cache-tls]`` listens on a free loopback port, prints ``{"port": N}`` and serves
until it is ended. ``--cache-tls`` keeps the one TLS context that it otherwise builds for every request.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import socket
import sys


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--cache-tls", action="store_true")
    options = parser.parse_args()
    if options.cache_tls:
        transports = importlib.import_module("httpx2._transports.default")
        vars(transports)["create_ssl_context"] = functools.cache(transports.create_ssl_context)
    server = importlib.import_module("fastmcp.server")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(2048)
    sys.stdout.write(json.dumps({"port": listener.getsockname()[1]}) + "\n")
    sys.stdout.flush()
    proxy = server.create_proxy(options.url)
    config = {"access_log": False, "log_level": "warning"}
    # As the gateway, whose server takes it by itself.
    importlib.import_module("uvloop").run(
        proxy.run_http_async(show_banner=False, path="/mcp", sockets=[listener], uvicorn_config=config)
    )


if __name__ == "__main__":
    main()

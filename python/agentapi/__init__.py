"""AgentAPI: a multi-tenant MCP gateway."""

import importlib
import sys
from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("agentapi")


def _import_without(module: str, *, absent: str) -> None:
    """Import ``module`` as if ``absent`` were not installed, which it would take along and nothing here needs.

    A module that is None counts as one that is not there; afterwards whoever wants it finds it.
    """
    if absent in sys.modules:
        return
    sys.modules[absent] = None  # type: ignore[assignment]
    try:
        importlib.import_module(module)
    finally:
        del sys.modules[absent]


# Here, since nothing of the gateway is imported before: rich draws tracebacks, ours are plain, and it takes 3 MiB.
_import_without("structlog", absent="rich")

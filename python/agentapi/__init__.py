"""AgentAPI: a multi-tenant MCP gateway."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("agentapi")

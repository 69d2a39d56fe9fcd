"""The one way out: address guard, DNS cache, TLS context and connection pool."""

from agentapi.egress.addresses import AddressPolicy
from agentapi.egress.client import Egress
from agentapi.egress.resolver import Resolver

__all__ = ["AddressPolicy", "Egress", "Resolver"]

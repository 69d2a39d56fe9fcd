"""The gateway of the API's tests, in a module of its own."""

from integration.api.conftest import gateway, issuer, keyring, state_dir

__all__ = ["gateway", "issuer", "keyring", "state_dir"]

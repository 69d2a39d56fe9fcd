"""Each user's own connection to an upstream: providers, discovery, flow, vault, refresh, revocation."""

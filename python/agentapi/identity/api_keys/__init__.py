"""API keys: credentials that an organisation's people make for programs."""

"""Structured logs and the health probes."""

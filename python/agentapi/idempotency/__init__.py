"""Requests that may be repeated safely, by the header ``Idempotency-Key``."""

"""Bounds on what callers may ask for."""

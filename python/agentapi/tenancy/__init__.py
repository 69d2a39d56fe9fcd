"""Organisations, workspaces and members."""

"""Prompts of the deployment, of organisations, workspaces and users, and what is composed of them."""

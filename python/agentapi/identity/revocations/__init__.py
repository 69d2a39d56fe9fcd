"""Tokens that are refused before their end."""

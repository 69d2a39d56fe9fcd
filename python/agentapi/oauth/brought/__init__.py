"""Credentials that users bring themselves: tokens, keys and logins, each sent as its upstream's form says."""

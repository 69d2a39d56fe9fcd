"""The upstream servers of a workspace and how to talk to them."""

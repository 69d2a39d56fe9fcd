"""Connecting in a browser: links that calls answer with, who may follow them, and where they lead."""

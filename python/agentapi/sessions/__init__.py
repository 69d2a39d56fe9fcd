"""Sessions: what an agent works in, with a directory, a composed prompt and short-lived tokens of its own."""

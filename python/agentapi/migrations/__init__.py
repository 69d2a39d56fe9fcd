"""The schema: plain SQL files, forward only, applied in the order of their names."""

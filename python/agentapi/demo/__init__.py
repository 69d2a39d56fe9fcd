"""Demo upstream servers of `agentapi dev`."""

"""Run the command line as ``python -m agentapi``."""

from agentapi.cli import main

if __name__ == "__main__":
    main()

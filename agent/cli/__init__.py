"""The command line of the agent, ``steeple-agent``: SPIRE's ``spire-agent``, one noun a module."""

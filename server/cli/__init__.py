"""The command line of the server, ``steeple-server``: SPIRE's ``spire-server``, one noun a module."""

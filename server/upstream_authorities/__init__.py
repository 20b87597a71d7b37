"""The authorities that may stand above this server's own, one a module."""

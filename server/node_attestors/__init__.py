"""How the server becomes sure of a node, one attestor a module."""

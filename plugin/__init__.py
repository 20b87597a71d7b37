"""Steeple's key managers as an external plugin of SPIRE: the program ``steeple-keymanager``.

A SPIRE server or agent starts it by ``KeyManager "pkcs11" { plugin_cmd = ... }`` and speaks go-plugin's protocol
with it (version 1, gRPC over a Unix socket).  What SPIRE's interface wants and our key managers refuse, a key that
replaces another under its id, exists in this package only.
"""

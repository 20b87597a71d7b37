"""Where private keys live: one interface, several places.

Synchronous, without gRPC; a call may block on hardware.  ``base`` is the interface; each backend is a module
or package of its own, named in ``registry``.
"""

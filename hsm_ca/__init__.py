"""The authorities of the trust domain: how they come to be, what they sign, how they end.

Synchronous, without gRPC, and blind to where the keys live: it sees ``keymanagers.base`` only.
"""

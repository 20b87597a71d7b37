"""What a SPIFFE trust domain is made of: IDs, SVIDs, bundles, entries, and the rules that hold for them.

The modules in this package's root are pure: no socket, file, clock or gRPC.  ``runtime`` holds what a
process is made of, ``api`` the wire messages and their conversion, ``attestation`` what both ends of a
node attestor must agree on.
"""

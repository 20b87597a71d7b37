"""The server's gRPC services, one a module.  Messages stop here: below are values.

Method names are the RPCs' own.  A handler takes the request and the call that the gate let in, and raises the
errors of ``spiffe_core.errors``; texts are SPIRE's, since scripts and people look for them.
"""

"""The wire: our own .proto files, the modules made of them, and the way between messages and values.

Below ``spire``, ``goplugin`` and here lie the .proto files, under the names that they have on the wire, each
beside its modules (``*_pb2``), which ``spiffe_core.api.generate`` makes.  ``convert`` holds pairs
``x_from_pb`` / ``x_to_pb``, one noun a module, and ``services`` reads the RPCs of a service from its descriptor.
Messages stop at the edge: servers, clients and the command line convert them and go on with values.
"""

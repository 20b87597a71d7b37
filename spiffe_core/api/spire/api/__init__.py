"""Made of the .proto files here by ``spiffe_core.api.generate``."""

"""A whole little cloud on one machine: an API server, IMDS, AAD and ARM that really speak HTTP, nodes and pods.

Emulators keep to what our programs and kubectl on our kinds need. They prove nothing about the real servers; the
API server's emulator is held to the contract tests that the real one passes too.
"""

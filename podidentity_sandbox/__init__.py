"""Emulators of a cluster and of Azure on one machine: an API server, IMDS, AAD and ARM over HTTP, nodes and pods.

The emulators implement what the project's programs and kubectl need. They prove nothing about the real servers. The
emulated API server must pass the contract tests that the real one passes.
"""

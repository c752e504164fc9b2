"""Decisions of MIC: from the desired and the actual state of one host to the steps that make them agree. Pure.

`assignments` defines the desired and the existing assignment and compares
them, `identity_usage` counts them per identity and host. `client_ids` compares client ids with
Azure's, `documents` renders AzureAssignedIdentities and JSON patches, and `plan` returns the steps. No module here does
I/O or reads a clock.
"""

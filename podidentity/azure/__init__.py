"""Azure's names and errors for both daemons: clouds, resource ids, the IMDS token source, errors with retry_after.

It has no code for Azure Resource Manager, which is in `mic.azure` and is not installed on nodes.
"""

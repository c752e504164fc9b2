"""Azure's own vocabulary, for both daemons: clouds, resource ids, the IMDS token source, errors that know retry_after.

No code for Azure Resource Manager: that is `mic.azure`, and the node does not carry it.
"""

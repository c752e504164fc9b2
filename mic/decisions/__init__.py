"""Decisions of MIC: from the desired and the actual state of one host to the steps that make them agree. Pure.

A reconcile pass decides three times, each time from the current state: `preparation` (objects to create, update,
annotate and revoke before Azure is changed), `host_change` (when MIC reads the host, and one merged update of it),
`completion` (statuses to set and objects to release after the update). Nothing is remembered between them, so an
interrupted pass is simply repeated. Two rules make the order safe: MIC attaches an identity only after an object
records it, and detaches it only after every object that represents it has been revoked.

`steps` defines their results, `policy` the limits of what they may change, and `ownership` who attached an identity and
whether MIC may detach it. `assignments` defines the desired and the existing assignment and compares them,
`identity_usage` counts them per identity and host. `client_ids` compares client ids with Azure's, and `documents`
renders AzureAssignedIdentities and JSON patches. No module here does I/O or reads a clock.
"""

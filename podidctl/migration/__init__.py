"""`podidctl migrate`: from the Go implementation to this one, and from this one to workload identity.

`field_spellings`, `differences`, `installed_programs` and `workload_identity` are functions from values to values.
`cluster_reader` reads the cluster, `show` and `documents` print, `command` defines the commands. Only `federation`
writes to a cluster; nothing writes to Azure.
"""

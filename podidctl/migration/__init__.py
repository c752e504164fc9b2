"""`podidctl migrate`: from the Go implementation to this one, and from this one to workload identity.

`differences`, `installed_programs`, `workloads` and `workload_identity` are functions from values to values.
`cluster_reader` reads the cluster, `manifests` reads and rewrites files, `output` prints, `command` defines the
commands. Only `federation` writes to a cluster; nothing writes to Azure.
"""

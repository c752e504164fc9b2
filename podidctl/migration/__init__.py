"""`podidctl migrate`: from the reference to here, and from here to workload identity.

`spelling`, `findings`, `installed` and `workload_identity` are functions from values to values; `survey` reads the
cluster, `show` and `documents` print, `command` is the way in. Nothing here writes to a cluster or to Azure.
"""

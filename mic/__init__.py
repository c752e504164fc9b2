"""MIC, the controller: assigns the Azure identities that pods are bound to, and attaches them to VMs and scale sets.

`cluster` keeps the watched objects in indexes. `decisions` (pure) compares the desired with the actual state of a host
and returns steps. `reconciliation` runs these steps, with at most one worker per host. `startup` reads the
configuration and does the work of a new leader, `leader_client` sends writes only while this process holds the lease.
`azure` contains all code for Resource Manager. `preview` computes what MIC would do without doing it. `app` assembles
these parts, `endpoints` and `metrics` report their state.
"""

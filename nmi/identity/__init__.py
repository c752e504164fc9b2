"""Pods and their identities: watches keep a cache of the cluster (`cluster_cache`), a pure function decides (`decide`).

`watches` deliver changes to `pod_registry` (pods by name and by address), to `assignments` or `managed_mode` (the
identities of a pod), and to `exemptions` (pods that use the node's own identities). `address_evidence` evaluates the
kernel's reports, and `suspensions` suspends the pods that may have lost their address. In doubt, `lookup_wait` waits
for an address or a name, `ownership_reads` finds and checks the owner of an address, and `verification_reads` sends the
reads to the API server. No module here knows HTTP or tokens.
"""

"""Reconciliation of hosts: queues of dirty hosts, the reconcile pass of one host, and the writes that it makes.

`controller` owns the queues (`work_queue`) and calls `host_reconciler`, which reads and updates Azure. `writer` writes
AzureAssignedIdentities at the rate that `write_limiter` allows. `events` composes Kubernetes Events. `left_out` counts
objects that one pass leaves out.
"""

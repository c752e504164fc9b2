"""Reconcile passes: the queues, the reads and updates of Azure, and the writes of MIC's objects.

`controller` owns the queues (`work_queue`) and calls `host_reconciler`, which orders one pass: `host_updater` reads and
updates the host on Azure, and `writer` writes the objects, at the rate and in the order of `write_limiter`. `events`
records what prevents an assignment, and `left_out` counts the objects that planning failed for.
"""

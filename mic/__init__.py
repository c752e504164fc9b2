"""MIC, the controller: makes Azure agree with the cluster about which identity sits on which VM or scale set.

`view` is the picture of the cluster, `plan` decides (pure), `apply` carries out, `reconcile` drives it from a keyed
queue with one worker for each VM or scale set at a time.
"""

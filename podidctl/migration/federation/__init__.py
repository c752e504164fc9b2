"""From identities on VMs to federated ones: planned, tried, switched one at a time, and taken back.

`planning` and `marks` decide and do no I/O; `reading` reads the cluster, `trying` asks for a token as NMI would,
`switching` and `applying` write. What is written names in an annotation what was there before, so that each of the
three commands understands whatever state an interrupted one has left.
"""

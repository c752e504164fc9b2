"""Migration from identities on VMs to federated ones: plan, token test, switch one at a time, roll back.

`planning`, `obstacles`, `applications` and `json_patches` are pure. `state_reader` reads the cluster, `token_tests`
requests a token as NMI would, `changes` writes. Each change records the former state in an annotation, so that every
command can continue after an interrupted one.
"""

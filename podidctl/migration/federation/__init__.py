"""Migration from identities on VMs to federated ones: plan, token test, switch one at a time, roll back.

`planning`, `obstacles` and `json_patches` are pure. `state_reader` reads the cluster, `token_test` requests a token as
NMI would, `identity_changes` and `application_changes` write. Each change records the former state in an annotation, so
that every command can continue after an interrupted one.
"""

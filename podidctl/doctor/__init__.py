"""`podidctl doctor`: checks of the whole installation, one line per check, with the next action.

`gather` reads the API server (`federated_access` and `secret_access` parts of it) and `node_reader` reads this machine
if it is a node. The checks are functions from the values of `state` to the findings of `schema`, in one module per
subject: `custom_resources`, `objects`, `assignments`, `federated_identities`, `programs`, `leaders`, `rights`,
`secrets`, `api_server`, `node_checks` and `fail_closed`. `exemptions` applies NMI's rules about pods that NMI leaves to
IMDS. `report` runs all checks and `command` defines the command. Nothing is changed.
"""

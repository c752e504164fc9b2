"""Azure Resource Manager for MIC: identities of VMs and scale sets through azure-mgmt-compute.

`identities` is the identity part of a host as values and as a request's body, `compute` the calls, `errors` what can
go wrong with one, `memory` what is remembered of a host between rounds (waits, refused identities). Nothing here knows
Kubernetes.
"""

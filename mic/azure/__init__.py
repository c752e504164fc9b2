"""Azure Resource Manager for MIC: identities of VMs and scale sets through azure-mgmt-compute.

`identities` contains the identity part of a host as values and as a request body, `compute` makes the calls, `errors`
defines their failures, and `memory` keeps the state of a host between passes (pauses, refused identities). This package
contains no Kubernetes code.
"""

"""Azure Resource Manager for MIC: identities of VMs and scale sets through azure-mgmt-compute, and credentials."""

"""`podidctl preflight`: whether a cluster without NMI and MIC meets their requirements, and with which chart values."""

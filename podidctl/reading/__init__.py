"""Readers of the cluster, of Azure and of this machine. They make no changes."""

"""The API server: access and authentication, requests as raw bytes, informers, the Lease elector, Events.

Errors of the HTTP library never leave this package: callers see `kube.errors`, one class for each thing that they
handle differently.
"""

"""API server client: access and authentication, requests as raw bytes, informers, the Lease elector, Events.

Errors of the HTTP library never leave this package. Callers receive the classes of `kube.errors`, one for each
reaction.
"""

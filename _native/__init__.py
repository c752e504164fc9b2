"""The compiled data plane: bytes in, bytes out.

Here live the listener, the scan of a request's head, the index from address to pod, and the answers that stand ready.
Everything here runs on what an untrusted pod sends, or beside it; nothing here knows Kubernetes, Azure or a policy,
and nothing here imports a package of ours. `nmi` is the only caller.
"""

"""Access to an API server without the process that reads a kubeconfig, which takes most of a second."""

import ssl

from podidentity.kube.access import ClusterAccess


def direct_access(server: str, ca: str, token: str) -> ClusterAccess:
    """Return access to *server*, whose certificate the PEM text *ca* has signed, with a bearer token."""

    async def authorization() -> str:
        return f"Bearer {token}"

    return ClusterAccess(server, ssl.create_default_context(cadata=ca), authorization)

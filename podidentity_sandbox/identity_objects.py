"""Creation of the identities that an operator names: in Azure, and as the objects that give them to pods.

The objects are in the namespace `default`. Pods with the label `aadpodidbinding: SELECTOR` get the identity.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from podidentity.exits import StartError
from podidentity.kube.errors import AlreadyExists
from podidentity.resources import IdentityType
from podidentity_sandbox.azure import USUAL_ROLES, AzureEmulator, identity_id
from podidentity_sandbox.cluster import Cluster, CreatedObjects
from podidentity_sandbox.settings import NAMESPACE, GivenIdentity


class IdentityObjects:
    """The identities of one sandbox. `objects` removes what `create` has created in the cluster."""

    def __init__(self, azure: AzureEmulator, cluster: Cluster, given: Sequence[GivenIdentity]) -> None:
        self._azure = azure
        self._given = given
        self.objects = CreatedObjects(cluster)
        self.client_ids: dict[GivenIdentity, str] = {}
        """Those of the created identities."""

    async def create(self) -> None:
        """Create the identities and their objects. Raise StartError for an object that exists, or ApiError."""
        for given in self._given:
            self.client_ids[given], spec, secret = self._in_azure(given)
            for document in _documents(given, spec, secret):
                try:
                    await self.objects.create(document)
                except AlreadyExists as error:
                    raise StartError(
                        f"{document['kind']} {NAMESPACE}/{given.name} exists; use another name or delete it"
                    ) from error

    def _in_azure(self, given: GivenIdentity) -> tuple[str, dict[str, Any], str]:
        """Create the identity in Azure. Return its client id, the spec of its AzureIdentity, and a secret or ""."""
        directory = self._azure.directory
        if given.type != IdentityType.SECRET:
            identity = directory.add_identity(identity_id(given.name))
            directory.grant(identity.object_id, *USUAL_ROLES)
            spec: dict[str, Any] = {"type": int(given.type), "clientID": identity.client_id}
            where = {"tenantID": directory.tenant_id} if given.type else {"resourceID": identity.resource_id}
            return identity.client_id, spec | where, ""
        principal = directory.add_principal()
        directory.grant(principal.object_id, *USUAL_ROLES)
        reference = {"name": given.name, "namespace": NAMESPACE}
        ids = {"clientID": principal.client_id, "tenantID": principal.tenant_id}
        return principal.client_id, {"type": 1, **ids, "clientPassword": reference}, principal.secret


def _documents(given: GivenIdentity, spec: Mapping[str, Any], secret: str) -> Iterator[dict[str, Any]]:
    """Yield the objects in the order of their creation: the Secret first, so that NMI finds it."""
    metadata = {"name": given.name, "namespace": NAMESPACE}
    if secret:
        data = {"clientSecret": base64.b64encode(secret.encode()).decode()}
        yield {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}
    if given.type == IdentityType.FEDERATED:
        yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    version = "aadpodidentity.k8s.io/v1"
    yield {"apiVersion": version, "kind": "AzureIdentity", "metadata": metadata, "spec": spec}
    binding = {"azureIdentity": given.name, "selector": given.selector}
    yield {"apiVersion": version, "kind": "AzureIdentityBinding", "metadata": metadata, "spec": binding}

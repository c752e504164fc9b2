"""Identities whose tokens applications use as the credential of an Entra application.

Such an application requests a token for the audience of Entra ID's token exchange, and presents it as its client
assertion. Entra ID accepts this from a managed identity on a VM (type 0), and refuses it from one that was itself
obtained by an exchange (type 3, AADSTS700231). Before an identity is made federated, its owner must know whether an
application does this. A fetch is recorded, never a request that the cache answers.
"""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from podidentity.resources import AzureIdentity, IdentityType

AUDIENCE_START: Final = "api://azureadtokenexchange"
"""The start of the audience in all clouds, in lower case: the other clouds append their name."""
IDENTITIES_MAX: Final = 64
"""Identities that are recorded by name; metrics have one series for each."""
PER_NAMESPACE_MAX: Final = 8
"""Identities of one namespace, so that its users cannot prevent the record of others with few objects."""
NAME_MAX: Final = 63 + 1 + 253
"""Kubernetes' limit of namespace and name with the slash; longer texts are not names."""


class ApplicationCredentials:
    """The identities since NMI started. Bounded in memory."""

    def __init__(self) -> None:
        self._tokens: Counter[str] = Counter()
        self.unrecorded = 0
        """Fetched tokens of identities that the limits exclude."""

    @property
    def tokens(self) -> Mapping[str, int]:
        """Numbers of fetched tokens by AzureIdentity (`namespace/name`). A live, read-only view."""
        return MappingProxyType(self._tokens)

    def record(self, identity: AzureIdentity, resource: str) -> None:
        """Record a fetched token of *identity* for *resource*, if it can be an application's credential."""
        if identity.spec.type != IdentityType.USER_ASSIGNED or not resource.lower().startswith(AUDIENCE_START):
            return
        name = "/".join(identity.key)
        if name in self._tokens or (len(name) <= NAME_MAX and self._has_room(identity.metadata.namespace)):
            self._tokens[name] += 1
        else:
            self.unrecorded += 1

    def state(self) -> dict[str, object]:
        """Return the state for /debug/state: JSON-able, at most IDENTITIES_MAX names."""
        return {"tokens": dict(self._tokens), "unrecorded": self.unrecorded}

    def _has_room(self, namespace: str) -> bool:
        ours = sum(name.startswith(f"{namespace}/") for name in self._tokens)
        return len(self._tokens) < IDENTITIES_MAX and ours < PER_NAMESPACE_MAX

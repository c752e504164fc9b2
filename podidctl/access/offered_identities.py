"""Identities that bindings give to pods of a namespace, and names in the specs of bindings and identities. Pure."""

from collections import defaultdict

from mic.decisions.assignments import misconfigured
from podidctl.access.cluster_objects import ClusterObjects
from podidctl.access.daemon_rules import DaemonRules
from podidctl.facts.model import readable
from podidentity.resources import AzureIdentity, AzureIdentityBinding, IdentityType

SECRET_TYPES = frozenset({IdentityType.SECRET, IdentityType.CERTIFICATE})


class OfferedIdentities:
    """Function that returns the identities that bindings give to pods of a namespace with any label; with an empty
    namespace, of all namespaces."""

    def __init__(self, objects: ClusterObjects, rules: DaemonRules) -> None:
        identities = {each.key: each for each in readable(objects.identities)}
        everywhere: set[str] = set()
        self._of: defaultdict[str, set[str]] = defaultdict(set)
        for binding in readable(objects.bindings):
            namespace = binding.metadata.namespace
            identity = identities.get((namespace, binding.spec.azure_identity))
            if identity is None or not binding.spec.selector or misconfigured(identity):
                continue
            self._of[namespace].add("/".join(identity.key))
            if not (rules.managed or rules.force_namespaced or identity.namespaced):
                everywhere.add("/".join(identity.key))
        self._everywhere = frozenset(everywhere)
        self._all = self._everywhere.union(*self._of.values())

    def __call__(self, namespace: str) -> frozenset[str]:
        return self._all if not namespace else self._everywhere | self._of.get(namespace, frozenset())


def identity_of(binding: AzureIdentityBinding) -> str:
    """Return the identity that *binding* names."""
    return f"{binding.metadata.namespace}/{binding.spec.azure_identity}"


def secret_of(identity: AzureIdentity) -> str:
    """Return the Secret of a service principal as `namespace/name`, or an empty string."""
    secret = identity.spec.client_password
    if identity.spec.type not in SECRET_TYPES or secret is None or not secret.name:
        return ""
    return f"{secret.namespace or identity.metadata.namespace}/{secret.name}"

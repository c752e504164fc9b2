"""The order of a pod's identities. NMI's decision and the predictions of podidctl use it. Pure."""


def candidate_order(pod_namespace: str, binding: str, identity: tuple[str, str]) -> tuple[bool, str, str, str]:
    """Return the sort key of *identity* (namespace and name), which *binding* (its name) gives to a pod.

    The identities of the pod's own namespace come first. A request that names none gets the first usable one.
    """
    namespace, name = identity
    return namespace != pod_namespace, binding, name, namespace

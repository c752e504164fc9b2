"""Pods that get the node's own identities, by NMI's own rules and the flags of the NMI on each pod's node. Pure."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from nmi.identity.exemptions import Exemptions
from nmi.settings import Settings
from podidentity.resources import AzurePodIdentityException, Pod


def exemption_reasons(
    nmis: Sequence[Settings], exceptions: Iterable[AzurePodIdentityException]
) -> Callable[[Pod], str]:
    """Return a function that returns why a pod is exempt (`MIC`, `exception namespace/name`), or an empty string.

    A node whose NMI flags are not known uses the flags of the first known NMI, or else the defaults.
    """
    known = {each.node_name: _exemptions(each) for each in nmis}
    usual = next(iter(known.values()), Exemptions(lambda _: None))
    by_namespace: defaultdict[str, list[AzurePodIdentityException]] = defaultdict(list)
    for each in exceptions:
        by_namespace[each.metadata.namespace].append(each)

    def why(pod: Pod) -> str:
        rules = known.get(pod.spec.node_name, usual)
        return rules.why_given(pod, by_namespace.get(pod.metadata.namespace, ()))

    return why


def _exemptions(settings: Settings) -> Exemptions:
    return Exemptions(lambda _: None, mic_namespace=settings.mic_namespace, namespaces=settings.exception_namespaces)

"""Checks of pods that get identities of other namespaces, and of pods with several identities. Pure."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from mic.cluster.bindings import embedded_bindings, indexed
from mic.decisions.assignments import DesiredAssignment, ExistingAssignment
from nmi.identity.candidate_order import candidate_order
from podidctl.diagnosis.several_identities import CLIENT_ID_VARIABLE, FOREIGN_ADVICE, NAME_ONE, sets_client_id
from podidctl.doctor.objects import live_pods
from podidctl.doctor.schema import Finding, Level, make_finding
from podidctl.doctor.state import Objects
from podidctl.printing import listed
from podidentity.report import counted
from podidentity.resources import Pod

IDENTITIES_MAX: Final = 2
"""Identities that are named for each pod."""


def check_identity_choice(
    objects: Objects, exempt: Callable[[Pod], str] = lambda _: "", *, force_namespaced: bool = False
) -> Iterator[Finding]:
    """Report pods to which bindings of other namespaces give identities, and pods with several identities whose
    containers do not set AZURE_CLIENT_ID, or perhaps do not. *force_namespaced*: bindings serve their own namespace.
    """
    active = [each for each in map(ExistingAssignment, objects.assigned) if not each.terminating]
    index = indexed(objects.identities, objects.bindings, active, force_namespaced=force_namespaced)
    embedded = embedded_bindings(active)
    added: list[str] = []
    only_foreign: list[str] = []
    several: list[str] = []
    unknown: list[str] = []
    for pod in live_pods(objects):
        if pod.spec.host_network or exempt(pod):
            continue
        # NMI orders by the binding that each object embeds, which can differ between the pods of one label.
        identities = sorted(
            index.all_desired(pod, embedded).values(),
            key=lambda each: candidate_order(
                each.pod.metadata.namespace, each.binding.metadata.name, each.identity.key
            ),
        )
        name = "/".join(pod.key)
        if foreign := [each for each in identities if each.crosses_namespaces]:
            pods = only_foreign if len(foreign) == len(identities) else added
            pods.append(f"{name} ({_names(foreign)})")
        if len(identities) > 1 and (sets := sets_client_id(pod)) is not True:
            (unknown if sets is None else several).append(f"{name} ({'/'.join(identities[0].identity.key)})")
    if added:
        says = f"bindings of other namespaces give further identities to {counted(len(added), 'pod')}: {listed(added)}"
        yield make_finding("other namespaces", Level.WARNING, says, FOREIGN_ADVICE)
    if only_foreign:
        says = f"{counted(len(only_foreign), 'pod gets', 'pods get')} identities of other namespaces only: "
        yield make_finding("other namespaces", Level.OK, says + listed(only_foreign))
    if several:
        says = (
            f"{counted(len(several), 'pod has', 'pods have')} several identities, and no container sets "
            f"{CLIENT_ID_VARIABLE}; a request that names none gets the one in parentheses: {listed(several)}"
        )
        yield make_finding("several identities", Level.WARNING, says, NAME_ONE)
    if unknown:
        says = (
            f"{counted(len(unknown), 'pod has', 'pods have')} several identities, and a ConfigMap or a Secret "
            f"(envFrom) may set {CLIENT_ID_VARIABLE}; a request that names none gets the one in parentheses: "
            f"{listed(unknown)}"
        )
        yield make_finding("several identities", Level.UNKNOWN, says, NAME_ONE)
    if not added and not only_foreign and not several and not unknown:
        yield make_finding("several identities", Level.OK, "every pod has one identity or names one, of its namespace")


def _names(identities: Sequence[DesiredAssignment]) -> str:
    return listed(("/".join(each.identity.key) for each in identities), IDENTITIES_MAX)

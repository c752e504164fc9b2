"""Notes on pods: why one has no identity in spite of its label, or what to check about those that it has. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from mic.cluster.mirror_pods import WHY as MIRROR_POD
from nmi.identity.candidate_order import candidate_order
from podidctl.access.projections import ReviewedPod
from podidctl.access.schema import Grant, GrantState
from podidctl.evaluation.daemons import MissingNmi
from podidctl.evaluation.pod import CLIENT_ID_VARIABLE, sets_client_id
from podidctl.report.text import listed, namespace_of
from podidentity.report import counted

SERVED: Final = frozenset({GrantState.USABLE, GrantState.PENDING, GrantState.LEFTOVER})
"""States in which NMI serves the identity, or will."""


def pod_note(pod: ReviewedPod, grants: Sequence[Grant], missing: MissingNmi | None, *, explained: bool) -> str:
    """Return the note on *pod*, or an empty string. *missing*: why its node has no NMI; *explained*: whether bindings
    and identities could be read."""
    if not pod.binding_label:
        return ""
    if missing is not None and not missing.reaches_imds:
        return f"{missing.why}, so {missing.effect}"
    if grants:
        return "; ".join(_notes(pod, [each for each in grants if each.state in SERVED]))
    if pod.mirror:
        return MIRROR_POD
    if not pod.spec.node_name:
        return "it is not scheduled to a node yet"
    return "no binding gives it an identity" if explained else ""


def _notes(pod: ReviewedPod, served: Sequence[Grant]) -> Iterator[str]:
    namespace = pod.metadata.namespace
    foreign = [each.identity for each in served if namespace_of(each.identity) != namespace]
    if foreign:
        yield f"another namespace gives it {listed(foreign)}"
    if len(served) > 1 and (sets := sets_client_id(pod)) is not True:
        several = counted(len(served), "identity", "identities")
        who = "no container sets" if sets is False else "a ConfigMap or a Secret (envFrom) may set"
        yield f"{several}, and {who} {CLIENT_ID_VARIABLE}{_choice(served, namespace)}"


def _choice(served: Sequence[Grant], namespace: str) -> str:
    """Return which identity a request gets that names none; "" with a leftover, whose binding the review does not
    name.
    """
    if any(each.state is GrantState.LEFTOVER for each in served):
        return ""
    first = min(served, key=lambda each: _order(each, namespace)).identity
    return f": a request that names none gets {first}"


def _order(grant: Grant, namespace: str) -> tuple[bool, str, str, str]:
    home, _, name = grant.identity.partition("/")
    return candidate_order(namespace, grant.binding.rpartition("/")[2], (home, name))

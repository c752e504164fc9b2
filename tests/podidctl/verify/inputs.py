"""Nodes, answers and evidence for tests of verdicts."""

from podidctl.verify.judgement import Evidence, Sighting
from podidctl.verify.objects import ClusterNode, NodeCondition, NodeStatus
from podidctl.verify.outcome import CanaryAnswer
from podidentity.resources import BareMeta

NODE = "node-a"
POD = "10.0.0.9"
NMI = "kube-system/nmi-a"


def node(name: str = NODE, *, labels: dict[str, str] | None = None, ready: str = "True") -> ClusterNode:
    conditions = [NodeCondition(type="Ready", status=ready, reason="KubeletNotReady", message="no network")]
    return ClusterNode(metadata=BareMeta(name=name, labels=labels), status=NodeStatus(conditions=conditions))


def answer(who: str, **fields: object) -> CanaryAnswer:
    known: dict[str, object] = {"source": "" if who == "nothing" else POD, "status": 404 if who == "nmi" else 0}
    return CanaryAnswer(who=who, **{**known, **fields})  # type: ignore[arg-type]  # fields of the struct


def seen(at: str = NODE, *, peer: str = POD, nmi: str = NMI) -> Evidence:
    return Evidence((Sighting(at, nmi, peer),))

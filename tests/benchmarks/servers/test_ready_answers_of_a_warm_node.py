"""After the warm-up the fast lane answers each pod; a pod without a ready answer is reported, not measured."""

import pytest

from benchmarks.load.node import Node
from benchmarks.load.node_servers import NodeServers
from benchmarks.load.servers import ask
from podidentity_sandbox.processes import ProgramError


def test_a_warm_node_answers_every_pod_from_the_fast_lane(around: NodeServers, nmi: Node) -> None:
    calls = around.counts().imds_calls
    nmi.warm(around.pods)
    assert around.counts().imds_calls - calls <= 3, "pods of one identity share its token"
    before = nmi.lane()
    for pod in around.pods:
        assert ask(nmi.address, nmi.port, source=pod).status == 200
    after = nmi.lane()
    assert after["fast_answers"] - before["fast_answers"] == len(around.pods)
    assert after["handed_over"] == before["handed_over"]


def test_a_refused_pod_cannot_be_warmed_up(nmi: Node) -> None:
    with pytest.raises(ProgramError, match=r"refuses 1 of the pods: 127\.1\.9\.9 404"):
        nmi.warm(["127.1.9.9"])

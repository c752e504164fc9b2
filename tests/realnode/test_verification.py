"""The document of `podidctl verify`, as the scenarios read it."""

import msgspec

from podidctl.doctor.schema import Level
from podidctl.verify.schema import Answered, Verification, verdict
from tests.realnode.verification import answers


def test_the_sender_of_each_node_is_read() -> None:
    nodes = [
        verdict("node-0", Level.OK, Answered.NMI, "NMI of this node answered"),
        verdict("node-1", Level.PROBLEM, Answered.IMDS, "IMDS answered", "change it"),
    ]
    document = msgspec.json.encode(Verification(namespace="identity", nodes=nodes)).decode()
    assert answers(document) == {"node-0": "nmi", "node-1": "imds"}

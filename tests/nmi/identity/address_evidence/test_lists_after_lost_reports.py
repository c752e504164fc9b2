"""Evidence in a list of the kernel's state, which NMI reads after reports were lost."""

import pytest

from nmi.identity.address_evidence import EvidenceKind
from nmi.node.rtnetlink import Message
from tests.nmi.identity.address_evidence.kernel_reports import (
    ADDRESS,
    LINKS,
    NEXT,
    OTHER,
    SUBNET,
    VETH,
    B,
    Y,
    behind,
    host_route,
    kinds,
    known,
    neighbour,
    present,
)

LISTED: dict[str, tuple[list[Message], list[tuple[str, EvidenceKind]]]] = {
    "the same": (present(), []),
    "neighbours forgotten": (present(but=[neighbour(), behind()]), []),
    "the port is gone": (present(but=[LINKS[2], behind()]), [(ADDRESS, EvidenceKind.INTERFACE_REMOVED)]),
    "the bridge is gone": (present(but=[LINKS[1], SUBNET]), [(ADDRESS, EvidenceKind.INTERFACE_REMOVED)]),
    "another link-layer address": (
        present(but=[neighbour()], more=[neighbour(B, confirmed=False)]),
        [(ADDRESS, EvidenceKind.LINK_LAYER_CHANGED)],
    ),
    "another port": (present(but=[behind()], more=[behind(NEXT)]), [(ADDRESS, EvidenceKind.PORT_MOVED)]),
    "the other's route is gone": (present(but=[host_route(NEXT, address=Y)]), [(OTHER, EvidenceKind.ROUTE_REMOVED)]),
    "the other's route moved": (
        present(but=[host_route(NEXT, address=Y)], more=[host_route(VETH, address=Y)]),
        [(OTHER, EvidenceKind.ROUTE_MOVED)],
    ),
    "the other's interface is gone": (
        present(but=[LINKS[3], host_route(NEXT, address=Y)]),
        [(OTHER, EvidenceKind.INTERFACE_REMOVED)],
    ),
}


@pytest.mark.parametrize("case", LISTED)
def test_a_difference_in_a_list_counts_like_a_report(case: str) -> None:
    listed, expected = LISTED[case]
    evidence = known(behind(), neighbour(), host_route(NEXT, address=Y), tracked=(ADDRESS, OTHER))
    assert kinds(evidence.replace(listed)) == expected

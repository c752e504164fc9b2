"""Evidence after random reports, lists, and claims of addresses."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from nmi.identity.address_evidence import AddressEvidence, Evidence
from nmi.node.rtnetlink import ForwardingEntry, Link, Message, Neighbour, Route
from tests.nmi.identity.address_evidence.kernel_reports import ADDRESS, BRIDGE, NEXT, OTHER, UPLINK, VETH, A, B, X, Y


@dataclass(frozen=True)
class Claim:
    """A pod's beginning or end at an address."""

    address: str
    begins: bool


Step = Message | Claim | list[Message]
ADDRESSES = st.sampled_from([X, Y])
INTERFACES = st.sampled_from([UPLINK, BRIDGE, VETH, NEXT, 99])
MACS = st.sampled_from([A, B, b""])
PREFIXES = st.sampled_from([(X, 32), (Y, 32), (bytes((10, 1, 0, 0)), 24), (bytes(4), 0)])
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Link, INTERFACES, st.just("l"), st.booleans()),
    st.builds(Neighbour, ADDRESSES, INTERFACES, MACS, st.booleans(), st.booleans()),
    st.builds(ForwardingEntry, st.sampled_from([A, B]), INTERFACES, INTERFACES, st.sampled_from([0, 1]), st.booleans()),
    st.builds(
        lambda prefix, output, priority, gone: Route(prefix[0], prefix[1], output, priority, gone),
        PREFIXES,
        INTERFACES,
        st.sampled_from([0, 100]),
        st.booleans(),
    ),
)
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        MESSAGES,
        st.builds(Claim, st.sampled_from([ADDRESS, OTHER]), st.booleans()),
        st.lists(MESSAGES, max_size=8),
    ),
    max_size=40,
)


def take(evidence: AddressEvidence, step: Step) -> list[Evidence]:
    if isinstance(step, Claim):
        (evidence.track if step.begins else evidence.untrack)(step.address)
        return []
    return evidence.replace(step) if isinstance(step, list) else evidence.apply([step])


@settings(deadline=None)  # a busy machine
@given(STEPS)
def test_any_reports_are_handled_and_unclaimed_addresses_only_have_ends(
    steps: list[Step],
) -> None:
    evidence, tracked = AddressEvidence(), set[str]()
    for step in steps:
        if isinstance(step, Claim):
            (tracked.add if step.begins else tracked.discard)(step.address)
        assert {each.address for each in take(evidence, step) if not each.kind.ends} <= tracked
        sizes = evidence.sizes()
        assert sizes["claimed"] == len(tracked)
        assert sizes["routes"] == sum(len(each) for by in evidence._routes.values() for each in by.values())


@settings(deadline=None)  # a busy machine
@given(STEPS)
def test_after_any_history_an_expiry_is_no_evidence(steps: list[Step]) -> None:
    evidence = AddressEvidence()
    for step in steps:
        take(evidence, step)
    forgotten: list[Message] = [Neighbour(address, each, b"", False, True) for address, each in evidence._neighbours]
    forgotten += [
        ForwardingEntry(link_layer, port, bridge, vlan, True)
        for (link_layer, bridge), (vlan, port) in evidence._forwardings.items()
    ]
    assert evidence.apply(forgotten) == []

"""Values whose comparison ignores a field: `==`, `!=` and the hash agree."""

from msgspec.structs import replace

from nmi.refusal import Reason, Refusal
from tests.support.nmi_objects import assigned

IDENTITY = assigned()
REFUSAL = Refusal(Reason.NOTHING_ASSIGNED, "no")


def test_the_time_of_an_assigned_identity_is_not_compared() -> None:
    later = replace(IDENTITY, usable_since=5.0)
    assert later == IDENTITY
    assert not later != IDENTITY  # noqa: SIM202  the operator is under test
    assert hash(later) == hash(IDENTITY)


def test_every_other_field_of_an_assigned_identity_is_compared() -> None:
    changes = {"binding": "x", "selector": "x", "status": "x", "deleting": True, "pod_uid": "x", "home": "x"}
    assert {*changes, "identity", "usable_since"} == set(IDENTITY.__struct_fields__)
    for name, value in changes.items():
        assert replace(IDENTITY, **{name: value}) != IDENTITY
    assert (
        replace(IDENTITY, identity=replace(IDENTITY.identity, metadata=replace(IDENTITY.identity.metadata))) == IDENTITY
    )
    renamed = replace(IDENTITY.identity.metadata, name="x")
    assert replace(IDENTITY, identity=replace(IDENTITY.identity, metadata=renamed)) != IDENTITY


def test_the_validity_of_a_refusal_is_not_compared() -> None:
    lasting = replace(REFUSAL, generation=3, unknown_seconds=1.0)
    assert lasting == REFUSAL
    assert not lasting != REFUSAL  # noqa: SIM202  the operator is under test
    assert hash(lasting) == hash(REFUSAL)
    assert replace(REFUSAL, sentence="other") != REFUSAL

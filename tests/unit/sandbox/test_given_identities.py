"""Identities on the command line of `podidctl sandbox up`: accepted and refused texts."""

import pytest

from podidentity.exits import StartError
from podidentity.resources import IdentityType
from podidentity_sandbox.settings import IDENTITIES_MAX, GivenIdentity, given_identities


def test_the_selector_is_the_name_unless_another_one_is_given() -> None:
    assert given_identities(["blue", "green=app"], ["robot=app", "r2-d2"]) == (
        GivenIdentity("blue", "blue"),
        GivenIdentity("green", "app"),
        GivenIdentity("robot", "app", IdentityType.SECRET),
        GivenIdentity("r2-d2", "r2-d2", IdentityType.SECRET),
    )


@pytest.mark.parametrize(
    "text", ["", "=app", "a=", "A", "a_b", "-a", "a-", "a" * 64, "a=" + "b" * 64, "a=-b", "a=b c", "a=b\n", "a\n", "ä"]
)
def test_others_are_refused_with_the_form_of_the_flag(text: str) -> None:
    with pytest.raises(StartError, match="is not NAME or NAME=SELECTOR"):
        given_identities([text], ())
    with pytest.raises(StartError, match="is not NAME or NAME=SELECTOR"):
        given_identities((), [text])
    for accepted in ("a", "0", "a" * 63, "a=" + "B" * 63, "a=A.b_c-9"):
        assert len(given_identities([accepted], ())) == 1


def test_the_name_of_the_demos_identity_is_refused_and_its_selector_is_not() -> None:
    with pytest.raises(StartError, match="belongs to the demo"):
        given_identities(["demo"], ())
    assert given_identities(["other=demo"], ()) == (GivenIdentity("other", "demo"),)


def test_a_name_may_be_given_once_a_selector_often_and_the_number_is_bounded() -> None:
    with pytest.raises(StartError, match="named twice"):
        given_identities(["one"], ["one=other"])
    with pytest.raises(StartError, match="named twice"):
        given_identities(["federated"], (), federated=True)
    assert given_identities(["federated"], ()) == (GivenIdentity("federated", "federated"),)
    assert len(given_identities(["one=app"], ["two=app"])) == 2

    names = [f"n{number}" for number in range(IDENTITIES_MAX + 1)]
    assert len(given_identities(names[:-1], ())) == IDENTITIES_MAX
    with pytest.raises(StartError, match="at most 50"):
        given_identities(names, ())

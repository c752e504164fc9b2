"""Identities on the command line of `podidctl sandbox up`: accepted and refused texts."""

import pytest

from podidentity.exits import StartError
from podidentity_sandbox.given_identities import IDENTITIES_MAX, GivenIdentity, parse


def test_the_selector_is_the_name_unless_another_one_is_given() -> None:
    assert parse(["blue", "green=app"], ["robot=app", "r2-d2"]) == (
        GivenIdentity("blue", "blue"),
        GivenIdentity("green", "app"),
        GivenIdentity("robot", "app", principal=True),
        GivenIdentity("r2-d2", "r2-d2", principal=True),
    )


@pytest.mark.parametrize(
    "text", ["", "=app", "a=", "A", "a_b", "-a", "a-", "a" * 64, "a=" + "b" * 64, "a=-b", "a=b c", "a=b\n", "a\n", "ä"]
)
def test_others_are_refused_with_the_form_of_the_flag(text: str) -> None:
    with pytest.raises(StartError, match="is not NAME or NAME=SELECTOR"):
        parse([text], ())
    with pytest.raises(StartError, match="is not NAME or NAME=SELECTOR"):
        parse((), [text])
    for accepted in ("a", "0", "a" * 63, "a=" + "B" * 63, "a=A.b_c-9"):
        assert len(parse([accepted], ())) == 1


def test_the_name_of_the_demos_identity_is_refused_and_its_selector_is_not() -> None:
    with pytest.raises(StartError, match="belongs to the demo"):
        parse(["demo"], ())
    assert parse(["other=demo"], ()) == (GivenIdentity("other", "demo"),)


def test_a_name_may_be_given_once_a_selector_often_and_the_number_is_bounded() -> None:
    with pytest.raises(StartError, match="named twice"):
        parse(["one"], ["one=other"])
    assert len(parse(["one=app"], ["two=app"])) == 2

    names = [f"n{number}" for number in range(IDENTITIES_MAX + 1)]
    assert len(parse(names[:-1], ())) == IDENTITIES_MAX
    with pytest.raises(StartError, match="at most 50"):
        parse(names, ())

"""Names of pods on the command line, and invalid ones."""

import pytest
import typer

from podidctl.cluster_access import parse_pod_name


def test_a_pod_is_named_with_its_namespace_as_prefix_or_flag() -> None:
    assert parse_pod_name("a/b.c-1", "", "usual") == ("a", "b.c-1")
    assert parse_pod_name("b", "a", "usual") == ("a", "b")
    assert parse_pod_name("b", "", "usual") == ("usual", "b")


@pytest.mark.parametrize("name", ["", "/", "a/", "/b", "a/b/c", "../secrets", "A/b", "a b", "b?x=1", "b\n", "\x1b[31m"])
def test_an_invalid_pod_name_is_a_usage_error_that_cannot_control_the_terminal(name: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a pod name") as caught:
        parse_pod_name(name, "", "usual")
    assert str(caught.value).isprintable()


def test_an_invalid_namespace_is_reported_too() -> None:
    with pytest.raises(typer.BadParameter, match="is not a namespace name"):
        parse_pod_name("b", "../a", "usual")

"""A wrong command line: exit code 2 and one line, a sentence that states the cause."""

from pathlib import Path

import pytest
import typer

from podidctl.cli import main
from podidctl.cluster_access import parse_pod_name


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("explain", "pod", "web", "-o", "xml"), "'xml' is not one of 'table', 'json', 'yaml'"),
        (("explain", "pod", "Bad Name"), "'Bad Name' is not a pod name; write NAMESPACE/NAME"),
        (("explain", "pod", "a/b/c"), "'a/b/c' is not a pod name"),
        (("explain", "pod"), "Missing argument"),
        (("doctor", "--no-such-flag"), "No such option: --no-such-flag"),
        (("doctor", "--imds"), "--imds sends a request from this machine"),
        (("no-such-command",), "No such command 'no-such-command'"),
        (("explain", "pod", "web\x1b[31m"), "is not a pod name"),
        (("explain", "pod", "default/web", "-n", "other"), "'default/web' and -n other name two namespaces"),
        (("explain", "pod", "web", "--nmi-flags=--operation-mode=imaginary"), "--nmi-flags: "),
        (("access", "pod", "a/b/c"), "is not a pod name; write NAMESPACE/NAME, or NAME with -n NAMESPACE"),
        (("access", "cat", "tom"), "'cat' is not one of "),
        (("access", "--policy", "a", "--diff", "b"), "--policy and --diff exclude each other"),
        (("access", "--policy", "a", "node", "n0"), "a policy tests the whole cluster"),
        (("access", "--policy", "a", "-o", "json"), "a policy tests the whole cluster"),
        (("access", "--diff", "a", "-o", "dot"), "--diff has no output dot"),
        (("access", "node", "n0", "--review", "a"), "a stored review cannot be restricted"),
    ],
)
def test_the_cause_is_one_sentence(words: tuple[str, ...], cause: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("podidctl: ")
    assert err.endswith(". Try --help.\n")
    assert not err.endswith(".. Try --help.\n")
    assert err.count("\n") == 1
    assert err.rstrip("\n").isprintable()
    assert cause in err
    assert "Value error" not in err


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


@pytest.mark.parametrize(
    "where", ["missing/values.yaml", "kubeconfig/values.yaml", "."], ids=["missing", "file", "folder"]
)
def test_unwritable_chart_values_are_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("{}")
    code = main(["sandbox", "up", "--kubeconfig", str(kubeconfig), "--chart-values", str(tmp_path / where)])
    output = capsys.readouterr()
    assert (code, output.out, output.err.count("\n")) == (2, "", 1)
    assert "--chart-values" in output.err
    assert str(tmp_path) in output.err

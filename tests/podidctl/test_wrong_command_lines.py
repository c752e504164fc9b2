"""A wrong command line: exit code 2 and one line, a sentence that states the cause."""

import pytest

from podidctl.cli import main


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

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

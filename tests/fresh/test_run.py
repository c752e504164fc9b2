"""A demo or a run that failed, or that did not run, does not pass."""

import pytest

from tests.fresh import run
from tests.fresh.demos import DEMOS, Demo, faults

WITHOUT, NFTABLES, IPTABLES, USER = DEMOS
OUTPUTS = {
    WITHOUT: "loopback addresses are used; install nftables for a redirect",
    NFTABLES: "tcp dport 80 dnat to 127.0.0.1:2579",
    IPTABLES: "-A aad-metadata -j DNAT --to-destination 127.0.0.1:2579",
    USER: "loopback addresses (not root)",
}


@pytest.mark.parametrize("demo", DEMOS, ids=lambda demo: demo.name)
def test_a_demo_must_show_its_own_redirect(demo: Demo) -> None:
    for shown, line in OUTPUTS.items():
        result = list(faults(demo, 0, f"{line}\nThe demo went well, in 3 s.\n"))
        assert (result == []) == (shown is demo), result


def test_a_demo_that_fails_or_does_not_reach_its_end_is_a_fault() -> None:
    assert list(faults(IPTABLES, 1, OUTPUTS[IPTABLES])) == [
        "the exit code is 1",
        "the output does not contain 'The demo went well'",
    ]


@pytest.mark.parametrize(("variable", "code"), [("true", 1), ("", 0)])
def test_a_machine_that_cannot_run_is_an_error_in_continuous_integration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, code: int
) -> None:
    monkeypatch.setenv("CI", variable)
    monkeypatch.setattr(run, "obstacle", lambda: "it needs root")
    assert run.main(["demos"]) == code
    assert capsys.readouterr().out == "make fresh: NOT RUN, because it needs root\n"


def test_one_failed_run_of_several_is_the_result_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "passed", lambda name, *_: "13 as root" not in name)
    assert not run.run_tests("HEAD", run.selected(""))
    assert run.run_tests("HEAD", run.selected("12"))

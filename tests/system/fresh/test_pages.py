"""Which commands are read from the pages, which results are accepted, and what a run that failed returns."""

import re
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.checkout import ROOT
from tests.system.fresh import pages, run
from tests.system.fresh.pages import RESULTS, UP, Expected, commands_of, follow, require

PAGE = """
Run `make demo`, which runs `mic`, or `podidctl
doctor` instead:

1. Type

   ```
   kubectl patch demo \\
     --patch '{}'
   export A=1

   kubectl logs -f demo
   ```

   until `successfully made GET on instance metadata`.

```sh
last --command
```
"""


def test_commands_of_blocks_and_sentences_are_read_in_their_order() -> None:
    assert list(commands_of(PAGE)) == [
        "make demo",
        "podidctl doctor",
        "kubectl patch demo --patch '{}'",
        "export A=1",
        "kubectl logs -f demo",
        "last --command",
    ]


def test_each_line_of_each_block_of_the_pages_is_read() -> None:
    for name, heading in [(name, heading) for name, headings in pages.PAGES for heading in headings]:
        text = pages.section((ROOT / name).read_text(), heading)
        blocks = text.split("```")[1::2]
        assert blocks
        lines = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
        assert set(lines) <= set(commands_of(text))


def test_a_new_section_of_the_quick_start_is_not_forgotten() -> None:
    page = "docs/quick-start.md"
    headings = re.findall(r"^## (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert headings == [*dict(pages.PAGES)[page], "Try the installation"], "tests/system/plane/e2e runs the last one"


def test_a_changed_command_with_a_stated_result_is_noticed() -> None:
    read = pages.read(ROOT)
    assert UP in read["README.md"]
    read["docs/quick-start.md"].remove("podidctl explain pod default/demo")
    with pytest.raises(ValueError, match="no page has: podidctl explain pod default/demo"):
        pages.check(read)


class FakeTerminal:
    """A terminal with prepared results, of which the last one stays."""

    def __init__(self, *results: tuple[int, str]) -> None:
        self.results, self.typed = list(results), list[str]()

    def type(self, command: str) -> tuple[int, str]:
        self.typed.append(command)
        return self.results.pop(0) if len(self.results) > 1 else self.results[0]

    def close(self) -> None:
        self.typed.append("closed")


def test_a_command_that_is_new_on_a_page_is_run_and_must_succeed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = FakeTerminal((127, "not found"))
    monkeypatch.setattr(pages, "Terminal", lambda *_: terminal)
    with pytest.raises(RuntimeError, match=r"page: 'new --command': the exit code is 127 instead of 0"):
        follow(cast("Any", None), "page", ["make cluster", "new --command"], Path("unused.log"))
    assert terminal.typed == ["new --command", "closed"]


LATER = Expected("made", later=True)
NEGATIVE = RESULTS["podidctl explain pod default/demo"]


@pytest.mark.parametrize(
    ("expected", "results", "fault"),
    [
        (Expected("went well"), [(0, "it went well\n")], ""),
        (Expected("went well"), [(1, "it went well\n")], "the exit code is 1 instead of 0"),
        (Expected("went well"), [(0, ""), (0, "it went well\n")], "the output does not contain 'went well'"),
        (NEGATIVE, [(0, NEGATIVE.output)], "the exit code is 0 instead of 3"),
        (LATER, [(1, ""), (0, ""), (0, "made")], ""),
    ],
)
def test_a_result_is_compared_with_the_expected_one_and_awaited_only_if_it_is_expected_later(
    monkeypatch: pytest.MonkeyPatch, expected: Expected, results: list[tuple[int, str]], fault: str
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    terminal = cast("Any", FakeTerminal(*results))
    if fault:
        with pytest.raises(RuntimeError, match=fault):
            require(terminal, "page", "command", expected)
    else:
        require(terminal, "page", "command", expected)


def test_a_result_that_does_not_come_in_time_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "SECONDS", 0.0)
    with pytest.raises(RuntimeError, match="does not contain 'made'"):
        require(cast("Any", FakeTerminal((0, ""))), "page", "logs", LATER)


OUTPUTS = (
    "loopback addresses are used; install nftables for a redirect",
    "tcp dport 80 dnat to 127.0.0.1:2579",
    "-A aad-metadata -j DNAT --to-destination 127.0.0.1:2579",
    "loopback addresses (not root)",
)


@pytest.mark.parametrize("demo", run.DEMOS, ids=lambda demo: demo.name)
def test_a_demo_must_show_its_own_redirect_and_reach_its_end(demo: run.Demo) -> None:
    for shown, line in zip(run.DEMOS, OUTPUTS, strict=True):
        assert (run.faults(demo, f"{line}\nThe demo went well, in 3 s.\n") == "") == (shown is demo)
        assert run.faults(demo, line) == "the output does not contain 'The demo went well'"


@pytest.mark.parametrize(("variable", "code"), [("true", 1), ("", 0)])
def test_a_machine_that_cannot_run_is_an_error_in_continuous_integration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, code: int
) -> None:
    monkeypatch.setenv("CI", variable)
    monkeypatch.setattr(run, "obstacle", lambda: "it needs root")
    assert run.main(["demos"]) == code
    assert capsys.readouterr().out == "make fresh: NOT RUN, because it needs root\n"


def test_one_failed_run_of_several_is_the_result_of_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "FOLDER", tmp_path)
    monkeypatch.setattr(run, "obstacle", lambda: "")
    monkeypatch.setattr(run, "passed", lambda name, *_: "13 as root" not in name)
    assert run.main(["tests"]) == 1
    assert run.main(["tests", "12"]) == 0

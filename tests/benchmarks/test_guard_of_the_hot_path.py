"""What a request costs in instructions, allocations and system calls is what the committed baseline says."""

import pytest

from benchmarks.guard import baseline
from benchmarks.guard.counting import counted, tool
from benchmarks.guard.here import here


@pytest.mark.tools
@pytest.mark.timeout(240)  # Callgrind takes twenty seconds, and a minute where others work beside it
def test_a_request_costs_what_the_baseline_says() -> None:
    environment = here()
    base = baseline.nearest(baseline.read(), environment)

    found = counted()

    told = baseline.complaints(base, environment, found)
    assert not told, baseline.message(told, base, environment)


def test_a_tool_that_is_missing_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(RuntimeError, match="sudo apt-get install valgrind"):
        tool("valgrind")

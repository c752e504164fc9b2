"""The script that installs system packages looks for programs only, never for its own functions."""

import re
from pathlib import Path

SCRIPT = (Path(__file__).parents[2] / "tools" / "system-packages").read_text()


def test_no_function_has_the_name_of_a_program_that_it_looks_for() -> None:
    functions = set(re.findall(r"^(\w+)\(\)", SCRIPT, flags=re.MULTILINE))
    programs = set(re.findall(r"\b(?:has|needs) ([a-z][\w-]*)", SCRIPT))
    assert {"nginx", "prometheus", "promtool", "spin", "curl"} <= programs
    assert not functions & programs

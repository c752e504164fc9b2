"""The cost of NMI's imports, compared with that of one package of the standard library in the same interpreter."""

import re
import subprocess
import sys

import pytest
import yaml

from benchmarks.guard.counting import environment, tool
from benchmarks.run import CHART_CORES
from tools.chart.rendering import CHART

IMPORTS_MAX = 2.6
"""2.3 today, and 3.3 while the values of NMI were dataclasses, whose methods are compiled at each start."""


def instructions(code: str) -> int:
    """Return the instructions in user space of a Python that runs *code*, in millions."""
    command = [tool("valgrind"), "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    (collected,) = re.findall(r"Collected : (\d+)", done.stderr)
    return int(collected) // 1_000_000


@pytest.mark.tools
@pytest.mark.timeout(600)  # callgrind takes twenty seconds, and minutes with other load
def test_the_imports_of_nmi_cost_at_most_2_6_times_those_of_asyncio() -> None:
    code = "from nmi.cli import _app; _app()"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())  # writes the bytecode
    asyncio = instructions("import asyncio")
    nmi = instructions("import gc; gc.disable(); from nmi.cli import _app; _app(); import uvloop")
    assert nmi / asyncio <= IMPORTS_MAX, (nmi, asyncio)


DATACLASSES = """
import dataclasses, sys
made, process = set(), dataclasses._process_class
def recorded(cls, *rest, **named):
    made.add(cls.__module__)
    return process(cls, *rest, **named)
dataclasses._process_class = recorded
from nmi.cli import _app
_app()
print(sorted(each for each in made if each.partition(".")[0] not in sys.stdlib_module_names))
"""
"""Prints the modules with a dataclass that NMI imports, without Python's own: asyncio of Python 3.14 has two."""


def test_nmi_has_no_dataclass_whose_methods_are_compiled_at_each_start() -> None:
    done = subprocess.run([sys.executable, "-c", DATACLASSES], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n", "a module of NMI or a new package has dataclasses: use msgspec.Struct"


def test_the_benchmark_has_the_charts_limit() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert float(values["nmi"]["resources"]["limits"]["cpu"]) == CHART_CORES

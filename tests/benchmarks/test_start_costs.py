"""The cost of NMI's imports, compared with that of one package of the standard library in the same interpreter."""

import re
import subprocess
import sys

import pytest
import yaml

from benchmarks.guard.counting import environment, tool
from benchmarks.run import CHART_CORES
from tools.chart.rendering import CHART

IMPORTS_MAX = 5.0
"""4.4 today, and 6.5 while aiohttp read the machine's certificate authorities at its import."""


def instructions(code: str) -> int:
    """Return the instructions in user space of a Python that runs *code*, in millions."""
    command = [tool("valgrind"), "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    (collected,) = re.findall(r"Collected : (\d+)", done.stderr)
    return int(collected) // 1_000_000


@pytest.mark.tools
@pytest.mark.timeout(600)  # callgrind takes twenty seconds, and minutes with other load
def test_the_imports_of_nmi_cost_at_most_five_times_those_of_asyncio() -> None:
    subprocess.run([sys.executable, "-c", "from nmi.cli import _app; _app()"], check=True)  # writes the bytecode
    asyncio = instructions("import asyncio")
    nmi = instructions("import gc; gc.disable(); from nmi.cli import _app; _app(); import uvloop")
    assert nmi / asyncio <= IMPORTS_MAX, (nmi, asyncio)


def test_the_benchmark_has_the_charts_limit() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert float(values["nmi"]["resources"]["limits"]["cpu"]) == CHART_CORES

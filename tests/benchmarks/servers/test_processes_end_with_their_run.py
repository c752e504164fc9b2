"""No process of the servers remains after a run that was killed, and each runs on its core."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.load.servers import running, wait_until
from tests.support.waiting import until_sync

ROOT = Path(__file__).parents[3]
RUN = """
import sys
from benchmarks.load.nginx import nginx
from benchmarks.load.node import node
from benchmarks.load.node_servers import node_servers
with node_servers(core=None) as around, node(around, core=None) as nmi, nginx(b"x", core=None) as server:
    print(around.pid, *nmi.pids, *server.pids, flush=True)
    sys.stdin.read()
"""


def runs(pid: int) -> bool:
    """Return whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_run_leaves_no_process_behind(tmp_path: Path) -> None:
    where = os.environ | {"TMPDIR": str(tmp_path)}
    command, pipe = [sys.executable, "-c", RUN], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=where, stdin=pipe, stdout=pipe, text=True) as run:
        assert run.stdout is not None
        pids = [int(each) for each in run.stdout.readline().split()]
        try:
            assert len(pids) == 3
            assert all(runs(pid) for pid in pids)
        finally:
            run.kill()
    until_sync(lambda: not any(map(runs, pids)), "the processes end")


def test_a_program_is_pinned_to_its_core_from_the_start(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    code = "import os, time; print(os.sched_getaffinity(0), flush=True); time.sleep(60)"
    log = tmp_path / "log"
    with running("it", [sys.executable, "-c", code], log=log, core=core) as process:
        wait_until(lambda: "}" in log.read_text(), process, "it", log)
        assert log.read_text().strip() == f"{{{core}}}"
    assert process.returncode == -signal.SIGTERM

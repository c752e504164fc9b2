"""The server for comparison: the distribution's nginx with one worker, which sends the same bytes for each request.

Its configuration has the lowest possible cost: no log, no file, no location lookup, no reconnect of clients.
multi_accept is off, since it costs an additional system call for each accepted connection.
"""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.load.servers import HERE, ROOT, Server, Side, folder, is_listening, program_path, running, wait_until
from benchmarks.results import BASE
from podidentity_sandbox.processes import ProgramError
from podidentity_sandbox.serving import free_ports

UNPACKED: Final = ROOT / "build/bench/nginx/usr/sbin/nginx"
"""The path where `make setup` unpacks nginx."""
BACKLOG: Final = 4096
"""As NMI's."""
TEXT_MAX: Final = 4000
"""nginx reads its configuration with a buffer of 4096 bytes. A parameter must fit into it."""
TEMPORARY: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def configuration(response: bytes, *, port: int, kept: Path, user: str = "") -> str:
    """Return nginx.conf for a server that sends *answer*; its files are in *kept*.

    *user* is the user of the worker if root starts nginx. Raises ValueError for a response that nginx's configuration
    cannot contain.
    """
    text = response.decode("ascii")
    if len(text) > TEXT_MAX or any(character in text for character in "'\\$\r\n"):
        raise ValueError(f"nginx takes up to {TEXT_MAX} bytes without quote, backslash, dollar sign or line end")
    paths = "\n".join(f"    {kind}_temp_path {kept}/{kind};" for kind in TEMPORARY)
    return f"""\
{f"user {user};" if user else ""}
daemon off;
worker_processes 1;
pid {kept}/nginx.pid;
error_log stderr warn;
events {{
    worker_connections 8192;
}}
http {{
{paths}
    access_log off;
    default_type application/json;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    server {{
        listen 127.0.0.1:{port} backlog={BACKLOG};
        return 200 '{text}';
    }}
}}
"""


@contextmanager
def nginx(response: bytes, *, core: int | None = 0, side: Side = HERE) -> Iterator[Server]:
    """Start nginx on the loopback of *side*; its process is the worker. Raises ProgramError, also without nginx."""
    program = program_path("nginx", UNPACKED)
    if program is None:
        raise ProgramError("nginx is missing; run make setup, or sudo apt-get install nginx")
    (port,) = free_ports(1)
    user = pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() == 0 else ""
    with folder() as kept:
        written = kept / "nginx.conf"
        written.write_text(configuration(response, port=port, kept=kept, user=user))
        log = kept / "nginx.log"
        command = [str(program), "-e", "stderr", "-p", str(kept), "-c", str(written)]
        # SIGKILL of the master would leave the worker running; SIGTERM ends both.
        with running(BASE, command, log=log, core=core, side=side, orphan_signal="TERM") as master:
            wait_until(lambda: side.call(lambda: is_listening("127.0.0.1", port)), master, BASE, log)
            wait_until(lambda: len(children(master.pid)) == 1, master, BASE, log)
            yield Server(BASE, "127.0.0.1", port, children(master.pid), side)


def children(pid: int) -> tuple[int, ...]:
    """Return the running child processes."""
    return tuple(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

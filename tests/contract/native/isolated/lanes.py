"""What the programs of this folder have in common: their start, an index with a ready answer, and nat rules."""

import os
import subprocess
import sys
from pathlib import Path

from _native.answers import Usage
from _native.connection import Connection
from _native.histogram import Histogram
from _native.index import Index, PodRecord
from tests.contract.native.serving import admit, ready
from tests.support.checkout import ROOT

HERE = Path(__file__).parent
METADATA = "169.254.169.254"
REQUEST = b"GET /metadata/identity/oauth2/token?resource=r HTTP/1.1\r\nHost: a\r\nMetadata: true\r\n\r\n"


def index_with_an_answer(*addresses: str) -> Index:
    """Return an index in which every address is that of one pod with a ready answer to REQUEST."""
    index, record = Index(), PodRecord(None)
    admit(record, ready(b"t" * 2000, Histogram([1]).series(()), Usage()), b"r")
    for address in addresses:
        index.put(address, record)
    return index


class General:
    """A general lane that answers each request with the lane's decision about its connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def data_received(self, data: bytes) -> None:
        self.connection.write(b"redirected\n" if self.connection.was_redirected() else b"direct\n")
        self.connection.resume()

    def peer_gone(self) -> None: ...

    def connection_lost(self) -> None: ...


def run(command: str) -> None:
    """Run *command* and wait for its end."""
    subprocess.run(command.split(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def redirect(address: str, port: int, to: str) -> None:
    """Redirect connections to *port* of *address*."""
    run(f"iptables -t nat -A OUTPUT -p tcp -d {address} --dport {port} -j DNAT --to-destination {to}")


def say(*words: object) -> None:
    """Print one line, which the test compares."""
    print(*words)  # noqa: T201


def lines_of(program: str, *, network_namespace: bool = False) -> list[str]:
    """Run *program*, a file of this folder, in another interpreter. Return its lines of output."""
    done = subprocess.run(
        [*(["unshare", "--net"] if network_namespace else []), sys.executable, HERE / program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()

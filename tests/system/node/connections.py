"""Attempts to connect to an address from anywhere on a test bed, and what became of them."""

import subprocess
import sys
from typing import Final

from podidentity_sandbox.namespaces import Namespaces
from tests.system.node.bed import Bed
from tests.system.node.node import Node

REFUSED: Final = "refused"
CLOSED: Final = "closed"
"""The server accepted the connection and closed it without a byte."""
OPEN: Final = "open"
"""The connection is open after SILENT_SECONDS, in which the client sent nothing."""
ANSWERED: Final = "answered"
UNREACHABLE: Final = "unreachable"
SILENT_SECONDS: Final = 2.0
_TIMEOUT_SECONDS: Final = 30
_CODE: Final = """
import socket, sys
host, port, seconds, request = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4].encode()
try:
    connection = socket.create_connection((host, port), seconds)
except ConnectionResetError:
    sys.exit(print("closed"))  # reset before the program has seen that the connection exists
except ConnectionRefusedError:
    sys.exit(print("refused"))
except OSError:
    sys.exit(print("unreachable"))
try:
    if request:
        connection.sendall(request + b"\\r\\nHost: imds\\r\\nMetadata: true\\r\\nConnection: close\\r\\n\\r\\n")
    received = connection.recv(1)
    print("answered" if received else "closed")
except TimeoutError:
    print("open")
except ConnectionError:
    print("closed")
"""


def program(host: str, port: int, request: str, python: str) -> list[str]:
    """Return the command of one attempt. *request* is an HTTP request line; empty: the client sends nothing."""
    return [python, "-c", _CODE, host, str(port), str(SILENT_SECONDS), request]


def from_pod(bed: Bed, pod: str, host: str, port: int, request: str = "") -> str:
    """Return the result of a pod's attempt. Raise CommandError if the pod cannot run the program."""
    return bed.kubectl("exec", pod, "--", *program(host, port, request, "python3")).strip()


def from_node(node: Node, host: str, port: int, request: str = "") -> str:
    """Return the result of an attempt of a process of the node. Raise BedError."""
    return node.run(*program(host, port, request, sys.executable)).strip()


def from_namespace(namespaces: Namespaces, name: str, host: str, port: int, request: str = "") -> str:
    """Return the result of an attempt in a network namespace of the test bed. Raise CalledProcessError."""
    command = namespaces.command(name, program(host, port, request, sys.executable))
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_SECONDS)
    return done.stdout.strip()

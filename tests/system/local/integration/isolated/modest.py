"""Program of a modest pod, which requests its token at a steady rate: `modest.py HOST PORT SOURCE REQUESTS NMI_PID`.

Each request has a scheduled time. The measured time runs from there to the last byte of the answer, even if the program
sends the request late, so that a lower rate does not hide a stall. Every second request uses a new connection. The
program prints a JSON object: the milliseconds of each request, the same without the time in which this program or NMI
waited for a processor (the longer of the two, as the kernel reports it), and the failures.
"""

import json
import socket
import sys
import time

INTERVAL_SECONDS = 0.04
REQUEST = (
    b"GET /metadata/identity/oauth2/token?resource=https%3A%2F%2Fmanagement.azure.com%2F HTTP/1.1\r\n"
    b"Host: 169.254.169.254\r\nMetadata: true\r\n\r\n"
)


def connect(address: tuple[str, int], source: str) -> socket.socket:
    sock = socket.create_connection(address, timeout=10, source_address=(source, 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def ask(sock: socket.socket) -> str:
    """Send one request. Return the fault of the answer; empty if there is none."""
    sock.sendall(REQUEST)
    received = b""
    while b"\r\n\r\n" not in received:
        data = sock.recv(65536)
        if not data:
            return f"closed after {len(received)} bytes"
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(body) < length:
        data = sock.recv(65536)
        if not data:
            return "closed within an answer"
        body += data
    return "" if head.startswith(b"HTTP/1.1 200 ") and b"access_token" in body else head.split(b"\r\n")[0].decode()


def waited(pid: str) -> float:
    """Return the milliseconds in which the process was ready to run and did not run."""
    with open(f"/proc/{pid}/schedstat") as file:  # noqa: PTH123  a Path object for each request would add load
        return int(file.read().split()[1]) / 1e6


def main(host: str, port: str, source: str, requests: str, nmi: str) -> None:
    address = (host, int(port))
    milliseconds, unhindered, wrong = [], [], []
    kept = connect(address, source)
    begun = time.monotonic()
    for number in range(int(requests)):
        due = begun + number * INTERVAL_SECONDS
        before = waited("self"), waited(nmi)
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            if number % 2:
                with connect(address, source) as sock:
                    fault = ask(sock)
            else:
                fault = ask(kept)
        except OSError as error:
            fault = repr(error)
        if fault:
            wrong.append(f"request {number}: {fault}")
        milliseconds.append((time.monotonic() - due) * 1000)
        hindered = max(waited("self") - before[0], waited(nmi) - before[1])
        unhindered.append(max(0.0, milliseconds[-1] - hindered))
    print(json.dumps({"milliseconds": milliseconds, "unhindered": unhindered, "wrong": wrong}))  # noqa: T201


main(*sys.argv[1:])

"""Program of a modest pod, which requests its token at a steady rate: `modest.py HOST PORT SOURCE REQUESTS NMI_PID`.

Each request has a scheduled time. The measured time runs from there to the last byte of the response, even if the
program sends the request late, so that a lower rate does not hide a stall. Every second request uses a new connection.
The program prints the milliseconds of each request as JSON, without the times in which this program and NMI waited for
a processor, as the kernel reports them: one after the other, because each waits for the other's part. It fails with the
first request that does.
"""

import json
import sys
import time
from contextlib import closing
from http.client import HTTPConnection

INTERVAL_SECONDS = 0.04
TARGET = "/metadata/identity/oauth2/token?resource=https%3A%2F%2Fmanagement.azure.com%2F"


def ask(connection: HTTPConnection) -> None:
    connection.request("GET", TARGET, headers={"Metadata": "true"})
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200, body
    assert b"access_token" in body


def waited(pid: str) -> float:
    """Return the milliseconds in which the process was ready to run and did not run."""
    with open(f"/proc/{pid}/schedstat") as file:  # noqa: PTH123  a Path object for each request would add load
        return int(file.read().split()[1]) / 1e6


def main(host: str, port: str, source: str, requests: str, nmi: str) -> None:
    def connection() -> HTTPConnection:
        return HTTPConnection(host, int(port), timeout=10, source_address=(source, 0))

    milliseconds = []
    kept = connection()
    begun = time.monotonic()
    for number in range(int(requests)):
        due = begun + number * INTERVAL_SECONDS
        before = waited("self") + waited(nmi)
        time.sleep(max(0.0, due - time.monotonic()))
        if number % 2:
            with closing(connection()) as new:
                ask(new)
        else:
            ask(kept)
        took = (time.monotonic() - due) * 1000
        milliseconds.append(max(0.0, took - (waited("self") + waited(nmi) - before)))
    print(json.dumps(milliseconds))  # noqa: T201


main(*sys.argv[1:])

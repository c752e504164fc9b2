"""Program of the canary pod: request a path that only NMI answers from the metadata address, and report who answered.

usage: canary.py HOST PORT CLIENT_REQUEST_ID

Standard library only: NMI's image runs this text by `python3 -I -c`, also an image of another release. The chart
contains a copy of this file for `helm test`.

The path is below /metadata/identity, which NMI never forwards to IMDS, whatever its flags are. NMI refuses it as an
unknown path, like the probes that SDKs send, and writes one line at the level INFO with the client's request id. The
request has no header field `Metadata`, so IMDS refuses it too: no answer contains a token.

NMI counts equal refusals of one address instead of logging each one, and learns the new pod's address some time after
its start. The program therefore sends several requests over some seconds: NMI logs the first one that it attributes to
this pod.
"""

import contextlib
import http.client
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

PATH: Final = "/metadata/identity/aad-pod-identity-verify"
PAUSES_SECONDS: Final = (0.0, 1.0, 1.0, 2.0, 2.0)
"""Pauses before the requests. The kubelet reports a new pod's address within one or two seconds."""
UNANSWERED_MAX: Final = 3
"""Requests without a response after which the program ends."""
REQUEST_SECONDS: Final = 4.0
BODY_BYTES: Final = 4096
TEXT_CHARS: Final = 160
RESULT: Final = Path("/dev/termination-log")
"""The kubelet reports the content of this file, 4096 bytes at most, in the status of the container."""

NMI: Final = "nmi"
IMDS: Final = "imds"
OTHER: Final = "other"
NOTHING: Final = "nothing"
NMI_RESPONSE: Final = {"error": "not_found", "error_description": "There is nothing here."}
SENTENCES: Final = {
    NMI: "NMI answered",
    IMDS: "IMDS answered: pods on this node get the node's own identities",
    OTHER: "a server that is neither NMI nor IMDS answered",
    NOTHING: "no server answered",
}

Result = dict[str, Any]
"""`who` (NMI, IMDS, OTHER or NOTHING), `source` (address of this end), `status`, `server` (header field), `text`."""


def ask(host: str, port: int, request_id: str) -> Result:
    """Send one request and describe the response, or its absence."""
    connection = http.client.HTTPConnection(host, port, timeout=REQUEST_SECONDS)
    result: Result = {"who": NOTHING, "source": "", "status": 0, "server": "", "text": ""}
    # The timeout of a socket starts again with each byte.
    signal.setitimer(signal.ITIMER_REAL, REQUEST_SECONDS)
    try:
        connection.connect()
        result["source"] = connection.sock.getsockname()[0]
        connection.request("GET", PATH, headers={"User-Agent": "podidctl-verify", "x-ms-client-request-id": request_id})
        response = connection.getresponse()
        result["status"] = response.status
        result["server"] = shown(response.getheader("Server", ""))
        result["who"] = OTHER
        document = decoded(response.read(BODY_BYTES))
        result["who"] = sender(response.status, result["server"], document)
        result["text"] = shown(document.get("error_description", ""))
    except http.client.HTTPException as error:
        result["who"], result["text"] = OTHER, f"not an HTTP response ({type(error).__name__})"
    except OSError as error:
        result["text"] = shown(f"{type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.close()
    return result


def decoded(body: bytes) -> dict[str, Any]:
    """Return the JSON object in *body*, or an empty one."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def sender(status: int, server: str, document: dict[str, Any]) -> str:
    """Return the sender of a response."""
    if server.lower().startswith(("imds", "microsoft-iis")):
        return IMDS
    is_nmi = status == 404 and all(document.get(name) == text for name, text in NMI_RESPONSE.items())
    return NMI if is_nmi else OTHER


def shown(text: object) -> str:
    """Return a text of the response, printable and cut."""
    return "".join(character if " " <= character <= "~" else "?" for character in str(text)[:TEXT_CHARS])


def worst(responses: Sequence[Result]) -> str:
    """Return the most serious sender among *responses*."""
    senders = {response["who"] for response in responses}
    return next(who for who in (IMDS, OTHER, NOTHING, NMI) if who in senders)


def stop(*_: object) -> NoReturn:
    """End a request that takes too long."""
    raise TimeoutError(f"no complete response within {REQUEST_SECONDS:g} s")


def main(arguments: Sequence[str]) -> int:
    """Print the results as the last line, write them to RESULT, and return 0 if NMI sent all of them, else 3."""
    host, port, request_id = arguments
    signal.signal(signal.SIGALRM, stop)
    responses: list[Result] = []
    for pause in PAUSES_SECONDS:
        time.sleep(pause)
        responses.append(ask(host, int(port), request_id))
        if [response["who"] for response in responses] == [NOTHING] * UNANSWERED_MAX:
            break
    who = worst(responses)
    result = json.dumps(responses)
    sys.stdout.write(f"{SENTENCES[who]} at http://{host}:{port}{PATH}\n{result}\n")
    # Where this file does not exist, podidctl reads the last line of the log.
    with contextlib.suppress(OSError):
        RESULT.write_text(result, encoding="utf-8")
    return 0 if who == NMI else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The program of a prober pod: requests a token every 100 ms on a new connection and prints each result as JSON.

Runs in the demo's image with Python's standard library only.
"""

import base64
import http.client
import json
import time
import urllib.error
import urllib.request
from pathlib import Path

URL = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net"
INTERVAL_SECONDS = 0.1
TIMEOUT_SECONDS = 3.0


def identity_of(token: str) -> str:
    """Return the name of a managed identity, or the client id of an application."""
    body = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return str(claims.get("xms_mirid", claims.get("appid", ""))).rpartition("/")[2]


def outcome() -> str:
    """Return `token NAME`, `http STATUS`, `refused`, `timeout` or another error of one request."""
    request = urllib.request.Request(URL, headers={"Metadata": "true"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
            return f"token {identity_of(json.load(response)['access_token'])}"
    except urllib.error.HTTPError as error:
        return f"http {error.code}"
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ConnectionRefusedError):
            return "refused"
        return "timeout" if isinstance(reason, TimeoutError) else f"error {type(reason).__name__}"
    except (http.client.HTTPException, LookupError, TypeError, ValueError) as error:
        return f"error {type(error).__name__}"  # a response that was cut


def cpu_wait() -> float:
    """Return the seconds in which programs of the machine waited for a CPU; 0 if the kernel does not count them."""
    try:
        some, _, _ = Path("/proc/pressure/cpu").read_text(encoding="ascii").partition("\n")
        return int(some.rpartition("total=")[2]) / 1e6
    except OSError:
        return 0.0


def main() -> None:
    """Send requests until the pod ends."""
    process = time.time()
    while True:
        waited, at = cpu_wait(), time.time()
        result = outcome()
        took = time.time() - at
        waited = cpu_wait() - waited
        times = {"at": at, "seconds": took, "cpu_wait": waited, "process": process}
        line = {"outcome": result} | {name: round(seconds, 3) for name, seconds in times.items()}
        print(json.dumps(line), flush=True)  # noqa: T201 - its log
        time.sleep(max(0.0, INTERVAL_SECONDS - took))


if __name__ == "__main__":
    main()

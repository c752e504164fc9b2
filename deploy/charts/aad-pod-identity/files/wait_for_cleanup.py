"""Waits in a pod until a DaemonSet is ready on every node: wait_for_cleanup.py NAMESPACE NAME

Standard library only. It gives up before the Job that runs it, and helm, would: with what is left to do.
"""

import json
import os
import pathlib
import ssl
import sys
import time
import urllib.error
import urllib.request
from typing import Any

ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
SERVER = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
PAUSE_SECONDS = 1.0
LIMIT_SECONDS = 240.0


def is_ready(daemonset: dict[str, Any]) -> bool:
    """Whether the controller has seen it as it is now, and every node that it wants has a ready pod."""
    status = daemonset.get("status", {})
    seen = status.get("observedGeneration") == daemonset["metadata"]["generation"]
    return bool(seen and status.get("numberReady", 0) == status.get("desiredNumberScheduled"))


def read(namespace: str, name: str) -> dict[str, Any]:
    """The DaemonSet. Raises OSError where it cannot be had."""
    request = urllib.request.Request(  # noqa: S310 - always https
        f"{SERVER}/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}",
        headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}"},
    )
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(request, timeout=30, context=context) as answer:  # noqa: S310 - always https
        found: dict[str, Any] = json.load(answer)
    return found


def main(namespace: str, name: str) -> None:
    told, end = "", time.monotonic() + LIMIT_SECONDS
    while True:
        try:
            found = read(namespace, name)
        except urllib.error.HTTPError as error:
            if error.code not in {403, 429, 500, 503, 504}:  # 403: the role may be a moment behind
                sys.exit(f"DaemonSet {namespace}/{name} cannot be read: {error.code} {error.reason}")
            news = f"{SERVER} answers {error.code}; asking again"
        except OSError as error:
            news = f"{SERVER} is not to be had ({error}); asking again"
        else:
            status = found.get("status", {})
            news = f"{status.get('numberReady', 0)} of {status.get('desiredNumberScheduled', '?')} nodes are clean"
            if is_ready(found):
                sys.stdout.write(f"{news}\n")
                return
        if news != told:
            sys.stdout.write(f"{news}\n")
            sys.stdout.flush()
            told = news
        if time.monotonic() > end:
            sys.exit(
                f"{news} after {LIMIT_SECONDS:g} s: kubectl -n {namespace} get pods -o wide shows which are not. "
                f"DaemonSet {name} stays and cleans a node that comes back; then delete it"
            )
        time.sleep(PAUSE_SECONDS)


main(*sys.argv[1:])

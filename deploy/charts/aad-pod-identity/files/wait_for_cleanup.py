"""Waits in a pod until a DaemonSet is ready on every node, and deletes it then: wait_for_cleanup.py NAMESPACE NAME

helm does not delete it, since it would do so also where this fails. Standard library only. It gives up before the Job
that runs it, and helm, would: with what is left to do.
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
DELETE_SECONDS = 20.0


def is_ready(daemonset: dict[str, Any]) -> bool:
    """Whether the controller has seen it as it is now, and every node that it wants has a ready pod."""
    status = daemonset.get("status", {})
    seen = status.get("observedGeneration") == daemonset["metadata"]["generation"]
    return bool(seen and status.get("numberReady", 0) == status.get("desiredNumberScheduled"))


def ask(method: str, namespace: str, name: str) -> dict[str, Any]:
    """What the API server answers for the DaemonSet. Raises OSError where it does not, or says no."""
    request = urllib.request.Request(  # noqa: S310 - always https
        f"{SERVER}/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}",
        headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}"},
        method=method,
    )
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    # As in podidentity/kube/access.py: the cluster's own authority need not be as RFC 5280 would have it.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    with urllib.request.urlopen(request, timeout=30, context=context) as answer:  # noqa: S310 - always https
        found: dict[str, Any] = json.load(answer)
    return found


def insist(method: str, namespace: str, name: str, limit: float, left: str) -> None:
    """Ask until the server has done it (DELETE), or the DaemonSet is ready (GET). Exits with what is *left* to do."""
    told, end = "", time.monotonic() + limit
    while True:
        ready = False
        try:
            found = ask(method, namespace, name)
        except urllib.error.HTTPError as error:
            if error.code == 404 and method == "DELETE":  # done by somebody else, or by a request whose answer was lost
                return
            if error.code not in {403, 429, 500, 503, 504}:  # 403: the role may be a moment behind
                sys.exit(f"{method} of DaemonSet {namespace}/{name} answers {error.code} {error.reason}: {left}")
            news = f"{method} of DaemonSet {namespace}/{name} answers {error.code}"
            if error.code == 403:
                news += f" (let this service account get and delete DaemonSet {name})"
        except OSError as error:
            news = f"{SERVER} is not to be had ({error})"
        else:
            if method == "DELETE":
                return
            status = found.get("status", {})
            news = f"{status.get('numberReady', 0)} of {status.get('desiredNumberScheduled', '?')} nodes are clean"
            ready = is_ready(found)
        if news != told and method == "GET":
            sys.stdout.write(f"{news}\n")
            sys.stdout.flush()
            told = news
        if ready:
            return
        if time.monotonic() > end:
            sys.exit(f"{news} after {limit:g} s: {left}")
        time.sleep(PAUSE_SECONDS)


def main(namespace: str, name: str) -> None:
    pods = f"kubectl -n {namespace} get pods -o wide shows which are not"
    stays = f"DaemonSet {name} stays and cleans a node that comes back; then delete it"
    insist("GET", namespace, name, LIMIT_SECONDS, f"{pods}. {stays}")
    done = f"all nodes are clean, so kubectl -n {namespace} delete daemonset {name}"
    insist("DELETE", namespace, name, DELETE_SECONDS, done)


main(*sys.argv[1:])

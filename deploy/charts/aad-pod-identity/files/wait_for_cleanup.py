"""Wait in a pod until a DaemonSet is ready on every node, then delete it: wait_for_cleanup.py NAMESPACE NAME

helm does not delete the DaemonSet, because it would also do so after a failure of this program. The program exits with
the next action before the time limits of its Job and of helm. Standard library only.
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
    """Return whether the controller has observed the current generation and every desired node has a ready pod."""
    status = daemonset.get("status", {})
    seen = status.get("observedGeneration") == daemonset["metadata"]["generation"]
    return bool(seen and status.get("numberReady", 0) == status.get("desiredNumberScheduled"))


def request_daemonset(method: str, namespace: str, name: str) -> dict[str, Any]:
    """Return the API server's response for the DaemonSet. Raise OSError if it does not respond or refuses."""
    request = urllib.request.Request(  # noqa: S310 - always https
        f"{SERVER}/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}",
        headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}"},
        method=method,
    )
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    # As in podidentity/kube/access.py: the cluster's certificate authority may not conform to RFC 5280.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    with urllib.request.urlopen(request, timeout=30, context=context) as answer:  # noqa: S310 - always https
        daemonset: dict[str, Any] = json.load(answer)
    return daemonset


def repeat_until_done(method: str, namespace: str, name: str, limit: float, left: str) -> None:
    """Repeat the request until it succeeds (DELETE) or the DaemonSet is ready (GET). Else exit, stating *left*."""
    reported, end = "", time.monotonic() + limit
    while True:
        ready = False
        try:
            daemonset = request_daemonset(method, namespace, name)
        except urllib.error.HTTPError as error:
            if error.code == 404 and method == "DELETE":  # deleted before, or by a request whose response was lost
                return
            if error.code not in {403, 429, 500, 503, 504}:  # 403: the role may not be effective yet
                sys.exit(f"{method} of DaemonSet {namespace}/{name} returns {error.code} {error.reason}: {left}")
            news = f"{method} of DaemonSet {namespace}/{name} returns {error.code}"
            if error.code == 403:
                news += f" (give this service account permission to get and delete DaemonSet {name})"
        except OSError as error:
            news = f"cannot reach {SERVER} ({error})"
        else:
            if method == "DELETE":
                return
            status = daemonset.get("status", {})
            news = f"{status.get('numberReady', 0)} of {status.get('desiredNumberScheduled', '?')} nodes are clean"
            ready = is_ready(daemonset)
        if news != reported and method == "GET":
            sys.stdout.write(f"{news}\n")
            sys.stdout.flush()
            reported = news
        if ready:
            return
        if time.monotonic() > end:
            sys.exit(f"{news} after {limit:g} s: {left}")
        time.sleep(PAUSE_SECONDS)


def main(namespace: str, name: str) -> None:
    """Wait for the DaemonSet and delete it."""
    pods = f"kubectl -n {namespace} get pods -o wide shows the others"
    stays = f"DaemonSet {name} remains and cleans a node when it is back; then delete it"
    repeat_until_done("GET", namespace, name, LIMIT_SECONDS, f"{pods}. {stays}")
    done = f"all nodes are clean, so kubectl -n {namespace} delete daemonset {name}"
    repeat_until_done("DELETE", namespace, name, DELETE_SECONDS, done)


main(*sys.argv[1:])

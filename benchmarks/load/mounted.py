"""A program that starts as in a pod: the files of its service account are mounted at the usual path.

Only the program sees them: it has a separate mount namespace, which an ordinary user can create if the kernel permits
user namespaces.
"""

import base64
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from podidentity.kube.access import SERVICE_ACCOUNT_ROOT

_SCRIPT: Final = 'mount -t tmpfs tmpfs /run && mkdir -p "$1" && cp "$2"/* "$1" && shift 2 && exec "$@"'
"""/var/run is a link to /run; $1 is the target of the files, $2 their folder; the program follows."""


def possible() -> bool:
    """Return whether this process can create mount namespaces."""
    tried = [*_own_mounts(), "mount", "-t", "tmpfs", "tmpfs", "/run"]
    return subprocess.run(tried, check=False, capture_output=True).returncode == 0


def with_service_account(argv: Sequence[str], kubeconfig: Path, kept: Path) -> list[str]:
    """Return the command that runs *argv* with the token and certificate authority of *kubeconfig*, a file of the
    sandbox.

    The files are written to the folder *kept*.
    """
    document = json.loads(kubeconfig.read_text())
    cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
    account = kept / "serviceaccount"
    account.mkdir(mode=0o700)
    (account / "ca.crt").write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
    (account / "token").write_text(user["token"])
    (account / "namespace").write_text("kube-system")
    server = urlsplit(cluster["server"])
    where = [f"KUBERNETES_SERVICE_HOST={server.hostname}", f"KUBERNETES_SERVICE_PORT={server.port}"]
    script = ["sh", "-c", _SCRIPT, "sh", str(SERVICE_ACCOUNT_ROOT), str(account)]
    return [*_own_mounts(), "env", *where, *script, *argv]


def _own_mounts() -> list[str]:
    return ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]

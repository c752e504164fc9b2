"""Applies CustomResourceDefinitions, a file each, in a pod: apply_crds.py FOLDER

Server-side apply by force: whoever had applied them before, the fields are ours from now on. Standard library only.
"""

import os
import pathlib
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request

ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
SERVER = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
HOW = urllib.parse.urlencode({"fieldManager": "aad-pod-identity-chart", "force": "true"})


def apply(document: bytes, name: str) -> None:
    """Make the definition *name* what *document* (YAML) says. Exits where the API server refuses."""
    request = urllib.request.Request(  # noqa: S310 - always https
        f"{SERVER}{PATH}/{name}?{HOW}",
        document,
        {
            "Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}",
            "Content-Type": "application/apply-patch+yaml",
        },
        method="PATCH",
    )
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    # As in podidentity/kube/access.py: the cluster's own authority need not be as RFC 5280 would have it.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        with urllib.request.urlopen(request, timeout=30, context=context):  # noqa: S310 - always https
            sys.stdout.write(f"applied {name}\n")
    except urllib.error.HTTPError as error:
        sys.exit(f"{name} was not applied: {error.code} {error.read(1000).decode(errors='replace')}")
    except OSError as error:
        sys.exit(f"{name} was not applied: {SERVER} is not to be had ({error})")


def main(folder: pathlib.Path) -> None:
    for file in sorted(folder.glob("*.yaml")):
        # Ours have the name at the start of a line, two blanks in, once.
        lines = file.read_text().splitlines()
        apply(file.read_bytes(), next(line for line in lines if line.startswith("  name: ")).split()[1])


main(pathlib.Path(sys.argv[1]))

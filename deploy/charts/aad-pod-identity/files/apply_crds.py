"""Apply CustomResourceDefinitions, one per file, in a pod: apply_crds.py FOLDER

Uses forced server-side apply, so the chart becomes the owner of all fields. Standard library only.
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
    """Apply *document* (YAML) as the definition *name*. Exit if the API server refuses."""
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
    # As in podidentity/kube/access.py: the cluster's certificate authority may not conform to RFC 5280.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        with urllib.request.urlopen(request, timeout=30, context=context):  # noqa: S310 - always https
            sys.stdout.write(f"applied {name}\n")
    except urllib.error.HTTPError as error:
        sys.exit(f"{name} was not applied: {error.code} {error.read(1000).decode(errors='replace')}")
    except OSError as error:
        sys.exit(f"{name} was not applied: cannot reach {SERVER} ({error})")


def main(folder: pathlib.Path) -> None:
    """Apply all definitions in *folder*."""
    for file in sorted(folder.glob("*.yaml")):
        # The chart's definitions contain one line that starts with two spaces and the name.
        lines = file.read_text().splitlines()
        apply(file.read_bytes(), next(line for line in lines if line.startswith("  name: ")).split()[1])


main(pathlib.Path(sys.argv[1]))

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
# A definition that was created in version v1beta1 preserves every unknown field until this is set. The files do not set
# it: the API server does not store false, so that a GitOps tool would show a difference forever.
SPEC = b"\nspec:\n"
PRUNING_SPEC = SPEC + b"  preserveUnknownFields: false\n"
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
        name = next(line for line in lines if line.startswith("  name: ")).split()[1]
        apply(file.read_bytes().replace(SPEC, PRUNING_SPEC, 1), name)


main(pathlib.Path(sys.argv[1]))

"""The chart as an operator installs it on a real control plane, and what one asks that cluster about it."""

import contextlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tests.conftest import OUR_KINDS
from tests.kubectl_and_helm import Commands
from tests.testplane import up
from tools.chart.rendering import CHART

LIMIT: Final = "--timeout=60s"
Right = tuple[str, str, str]
"""What `kubectl auth can-i --list` tells in a line: resource, names, verbs."""


class Cluster(Commands):
    """A control plane as an operator uses it, with one of the helms."""

    def __init__(self, plane: up.Plane, helm: str = "helm") -> None:
        super().__init__(plane.kubeconfig, helm)
        self.plane = plane

    def install(self, namespace: str, *options: str, release: str = "pi", chart: Path = CHART) -> None:
        self.helm("install", release, str(chart), f"--namespace={namespace}", "--create-namespace", LIMIT, *options)

    @contextlib.contextmanager
    def installed(self, namespace: str, *options: str) -> Iterator[None]:
        """The chart in a namespace of this name, and afterwards neither."""
        self.install(namespace, *options)
        try:
            yield
        finally:
            # The hook that cleans nodes waits for programs that nothing runs here.
            self.helm("uninstall", "pi", f"--namespace={namespace}", "--no-hooks", LIMIT)
            self.kubectl("delete", "namespace", namespace, "--wait=false")

    def rights(self, account: str, *, of: str, within: str) -> set[Right]:
        """What the service account *account* of namespace *of* may do in *within*, beyond what every account may."""

        def told(name: str) -> set[Right]:
            listed = self.kubectl(
                "auth", "can-i", "--list", f"--namespace={within}", f"--as=system:serviceaccount:{of}:{name}"
            )
            return set(_rights(listed))

        return told(account) - told("nobody-that-was-granted-anything")

    def token(self, account: str, namespace: str) -> str:
        """What a pod of this service account would have mounted."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return str(self.plane.api("POST", path, {"spec": {"expirationSeconds": 3600}})["status"]["token"])

    def kubeconfig_of(self, account: str, namespace: str, file: Path) -> Path:
        """A kubeconfig with which one is that service account."""
        config = yaml.safe_load(Path(self.plane.kubeconfig).read_text())
        for user in config["users"]:
            user["user"] = {"token": self.token(account, namespace)}
        file.write_text(yaml.safe_dump(config))
        return file

    def without_our_kinds(self) -> None:
        """Take the CustomResourceDefinitions off, if they are there."""
        kinds = [f"crd/{kind}.aadpodidentity.k8s.io" for kind in OUR_KINDS]
        self.kubectl("delete", "--ignore-not-found", "--timeout=20s", *kinds)

    def everything(self) -> set[str]:
        """Each object of the cluster but what the control plane makes and takes by itself."""
        kinds = self.kubectl("api-resources", "--verbs=list", "-o", "name").split()
        wanted = ",".join(kind for kind in kinds if kind not in UNTOLD)
        listed = json.loads(self.kubectl("get", wanted, "-A", "-o", "json"))["items"]
        return {f"{each['kind']} {each['metadata'].get('namespace', '')}/{each['metadata']['name']}" for each in listed}

    def until_rights_hold(self, *, account: str, namespace: str, verb: str, resource: str) -> None:
        """Wait until the server's authorizer has heard of a role."""
        who = f"--as=system:serviceaccount:{namespace}:{account}"
        deadline = time.monotonic() + 20
        while "no" in self.kubectl_unchecked("auth", "can-i", verb, resource, "-A", who):
            assert time.monotonic() < deadline, f"{account} may not {verb} {resource}"
            time.sleep(0.05)


UNTOLD: Final = {
    *("events", "events.events.k8s.io", "leases.coordination.k8s.io", "endpoints", "nodes", "namespaces"),
    "apiservices.apiregistration.k8s.io",
}
"""Kinds of which the control plane makes objects as it runs, the last for each definition; and namespaces, which a test
makes."""


def _rights(listed: str) -> Iterator[Right]:
    for line in listed.splitlines():
        found = re.fullmatch(r"(\S+)\s+\[(.*?)\]\s+\[(.*?)\]\s+\[(.*?)\]", line)
        if found:  # neither the heading nor paths that are no resources
            yield found[1], found[3], " ".join(sorted(found[4].split()))


def arguments_of(objects: Sequence[dict[str, Any]], container: str) -> list[str]:
    """The command line of the container of this name."""
    (found,) = (
        one["args"]
        for each in objects
        for one in each.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
        if one["name"] == container
    )
    return list(found)

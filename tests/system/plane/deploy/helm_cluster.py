"""Installation of the chart on a real control plane, and queries of that cluster."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml
from typing_extensions import override

from tests.conftest import until_listed
from tests.support.kubectl_and_helm import Commands
from tests.support.testplane import up
from tests.support.waiting import until_sync
from tools.chart.rendering import CHART

LIMIT: Final = "--timeout=60s"
Right = tuple[str, str, str]
"""One line of `kubectl auth can-i --list`: resource, names, verbs."""


class Cluster(Commands):
    """A control plane with one version of helm."""

    def __init__(self, plane: up.Plane, helm: str = "helm") -> None:
        super().__init__(plane.kubeconfig, helm)
        self.plane = plane

    @override
    def helm(self, *arguments: str) -> str:
        """Run helm. The chart gets a registry, unless *arguments* name one."""
        command, *rest = arguments
        registry = ["--set=image.repository=ours"] if str(CHART) in arguments else []
        return super().helm(command, *registry, *rest)

    def install(self, namespace: str, *options: str, release: str = "pi", chart: Path = CHART) -> None:
        self.helm("install", release, str(chart), f"--namespace={namespace}", "--create-namespace", LIMIT, *options)

    @contextlib.contextmanager
    def installed(self, namespace: str, *options: str) -> Iterator[None]:
        """Install the chart in a namespace of this name, and remove both afterwards."""
        self.install(namespace, *options)
        try:
            yield
        finally:
            # The hook that cleans nodes waits for programs that do not run here.
            self.helm("uninstall", "pi", f"--namespace={namespace}", "--no-hooks", LIMIT)
            self.kubectl("delete", "namespace", namespace, "--wait=false")

    def rights(self, account: str, *, of: str, within: str) -> set[Right]:
        """Return what service account *account* of namespace *of* may do in *within*, beyond every account."""

        def listed_rights(name: str) -> set[Right]:
            listed = self.kubectl(
                "auth", "can-i", "--list", f"--namespace={within}", f"--as=system:serviceaccount:{of}:{name}"
            )
            return set(_rights(listed))

        return listed_rights(account) - listed_rights("without-permissions")

    def token(self, account: str, namespace: str) -> str:
        """Return the token that the kubelet mounts into a pod of this service account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return str(self.plane.api("POST", path, {"spec": {"expirationSeconds": 3600}})["status"]["token"])

    def kubeconfig_of(self, account: str, namespace: str, file: Path) -> Path:
        """Return a kubeconfig of that service account."""
        config = yaml.safe_load(Path(self.plane.kubeconfig).read_text())
        for user in config["users"]:
            user["user"] = {"token": self.token(account, namespace)}
        file.write_text(yaml.safe_dump(config))
        return file

    def delete_definitions(self, group: str) -> None:
        """Delete the CustomResourceDefinitions of *group*.

        The API server lists the objects of a definition before it deletes it. If no other request has done that since
        the definition changed, kube-apiserver 1.37 returned "storage is (re)initializing" to itself for minutes in one
        of twelve attempts, and in none of 88 after a list.
        """
        definitions = json.loads(self.kubectl("get", "crd", "-o", "json"))["items"]
        names = []
        for spec in (definition["spec"] for definition in definitions if definition["spec"]["group"] == group):
            plural = spec["names"]["plural"]
            version = next(served_version["name"] for served_version in spec["versions"] if served_version["served"])
            until_listed(self.plane, f"/apis/{group}/{version}/{plural}")
            names.append(f"crd/{plural}.{group}")
        if names:
            self.kubectl("delete", "--timeout=60s", *names)

    def until_rights_hold(self, *, account: str, namespace: str, verb: str, resource: str) -> None:
        """Wait until the server's authorizer knows a role."""
        who = f"--as=system:serviceaccount:{namespace}:{account}"
        until_sync(
            lambda: "yes" in self.kubectl_unchecked("auth", "can-i", verb, resource, "-A", who),
            f"{account} may {verb} {resource}",
        )


def _rights(listed: str) -> Iterator[Right]:
    for line in listed.splitlines():
        match = re.fullmatch(r"(\S+)\s+\[(.*?)\]\s+\[(.*?)\]\s+\[(.*?)\]", line)
        if match:  # skip the heading and non-resource paths
            yield match[1], match[3], " ".join(sorted(match[4].split()))

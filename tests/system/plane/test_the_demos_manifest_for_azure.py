"""`deploy/demo/azure`, which users edit and apply. The tests of the sandbox cover the parent folder."""

import re
from typing import Any

import pytest
import yaml

from podidentity_demo.settings import parse
from podidentity_sandbox.launching import program_of
from tests.support.checkout import ROOT
from tests.support.kubectl_and_helm import CommandError, Commands
from tests.support.testplane import up

FILE = ROOT / "deploy" / "demo" / "azure" / "deployment.yaml"


def container(text: str) -> dict[str, Any]:
    (only,) = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
    return dict(only)


def test_the_arguments_are_valid_for_the_demo_after_all_ids_are_inserted(capsys: pytest.CaptureFixture[str]) -> None:
    text = FILE.read_text().replace("REGISTRY/PATH", "registry.example/aad-pod-identity")
    filled = re.sub("SUBSCRIPTION_ID|CLIENT_ID|RESOURCE_GROUP", "x", text)
    parsed = parse(container(filled)["args"], {})
    assert (parsed.subscription, parsed.client_id, parsed.resource_group) == ("x", "x", "x")
    assert program_of(container(filled)["image"]) == "demo"

    for left in range(3):
        arguments = [
            argument if at == left else f"{argument.partition('=')[0]}=x"
            for at, argument in enumerate(container(FILE.read_text())["args"])
        ]
        with pytest.raises(SystemExit):
            parse(arguments, {})
        assert "insert the real value" in capsys.readouterr().err


def test_the_identity_is_bound_to_the_pods_and_all_ids_are_placeholders() -> None:
    identity, bound = yaml.safe_load_all((FILE.parent / "identity.yaml").read_text())
    assert identity["spec"] == {"type": 0, "resourceID": "RESOURCE_ID", "clientID": "CLIENT_ID"}
    assert bound == yaml.safe_load((FILE.parents[1] / "azureidentitybinding.yaml").read_text())
    assert identity["metadata"] == {"name": bound["spec"]["azureIdentity"], "namespace": "default"}
    template = yaml.safe_load(FILE.read_text())["spec"]["template"]
    assert template["metadata"]["labels"]["aadpodidbinding"] == bound["spec"]["selector"]


@pytest.mark.plane
def test_kubernetes_accepts_it_also_in_a_restricted_namespace(plane: up.Plane) -> None:
    kubectl = Commands(plane.kubeconfig).kubectl
    meta = {"name": "demo-restricted", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    plane.api("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    try:
        deployment = yaml.safe_load(FILE.read_text())
        pod = {"apiVersion": "v1", "kind": "Pod", **deployment["spec"]["template"]}
        pod["metadata"] |= {"name": "demo", "namespace": meta["name"]}
        dry = ("apply", "--dry-run=server", "--validate=strict", "-f")
        assert kubectl(*dry, str(FILE)) == "deployment.apps/demo created (server dry run)\n"
        assert kubectl(*dry, "-", stdin=yaml.safe_dump(pod)) == "pod/demo created (server dry run)\n"
        del pod["spec"]["containers"][0]["securityContext"]["capabilities"]
        with pytest.raises(CommandError, match="violates PodSecurity"):
            kubectl(*dry, "-", stdin=yaml.safe_dump(pod))
    finally:
        plane.api("DELETE", f"/api/v1/namespaces/{meta['name']}")

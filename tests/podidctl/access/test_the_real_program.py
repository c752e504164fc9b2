"""`python -m podidctl access` as a process on the sandbox's servers."""

import asyncio
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.mic.cluster import identity_id, vm_id
from tests.mic.emulated_cloud import EmulatedCloud
from tests.mic.preview.run_programs import Answer, run

RBAC = "rbac.authorization.k8s.io"
POLICY = """
version: 1
rules:
  - {name: demo stays at home, rule: identity-only-from, identities: [demo], namespaces: [default]}
  - {name: nothing strange, rule: no-unexplained-identities}
"""


async def access(cloud: EmulatedCloud, *words: str, azure: bool = False) -> Answer:
    return await run(cloud.folder, "podidctl", "access", *words, cloudconfig=azure)


async def offline(cloud: EmulatedCloud, *words: str) -> Answer:
    return await run(cloud.folder, "podidctl", "access", *words, kubeconfig=False, cloudconfig=False)


def privileged(cloud: EmulatedCloud, name: str, node: str) -> None:
    container = {"name": "c", "image": "i", "securityContext": {"privileged": True}}
    meta = {"name": name, "namespace": "default"}
    cloud.api.store.create("pods", {"metadata": meta, "spec": {"nodeName": node, "containers": [container]}})


def grant(cloud: EmulatedCloud, subject: dict[str, Any]) -> None:
    rules = [{"apiGroups": ["aadpodidentity.k8s.io"], "resources": ["*"], "verbs": ["*"]}]
    cloud.api.store.create(f"clusterroles.{RBAC}", {"metadata": {"name": "all"}, "rules": rules})
    reference = {"apiGroup": RBAC, "kind": "ClusterRole", "name": "all"}
    binding = {"metadata": {"name": "all"}, "subjects": [subject], "roleRef": reference}
    cloud.api.store.create(f"clusterrolebindings.{RBAC}", binding)


async def prepared(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.node("n1")
    cloud.identity()
    await cloud.mic()
    cloud.pod("web", "n0")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    privileged(cloud, "agent", "n0")
    grant(cloud, {"kind": "User", "name": "anna"})


async def test_the_cluster_and_azure_are_read_and_nothing_is_written(cloud: EmulatedCloud) -> None:
    await prepared(cloud)
    requests: list[Recorded] = []
    cloud.api.intercept = requests.append
    before = len(cloud.arm.writes())
    answer = await access(cloud, "-o", "json", azure=True)
    assert (answer.code, answer.err) == (0, ""), answer.out
    found = answer.document
    assert found["azure"] == "read"
    (one,) = found["grants"]
    assert (one["pod"], one["identity"], one["state"], one["binding"]) == (
        "default/web",
        "default/demo",
        "usable",
        "default/demo",
    )
    (agent,) = (each for each in found["pods"] if each["name"] == "agent")
    assert [each["way"] for each in agent["hostAccess"]] == ["privileged"]
    (vm,) = (each for each in found["hosts"] if each["id"] == vm_id("n0"))
    assert [(each["resourceId"], each["explained"]) for each in vm["attached"]] == [(identity_id("demo"), "pods")]
    (anna,) = found["subjects"]
    assert {each["action"] for each in anna["rights"]} == {
        "write bindings",
        "write identities",
        "write exceptions",
        "write assigned identities",
    }
    ours = [each for each in requests if "podidctl" in each.user_agent]
    assert {each.method for each in ours} == {"GET"}
    assert len(cloud.arm.writes()) == before


async def test_an_identity_on_a_vm_that_nothing_explains_is_found(cloud: EmulatedCloud) -> None:
    await prepared(cloud)
    backup = cloud.directory.add_identity(identity_id("backup"), client_id="client-backup")
    cloud.arm.vm(vm_id("n1")).attach(backup)
    answer = await access(cloud, azure=True)
    assert answer.code == 0
    (row,) = [line for line in answer.out.splitlines() if "VM n1" in line]
    assert "backup" in row


async def test_a_scope_shows_the_blast_radius(cloud: EmulatedCloud) -> None:
    await prepared(cloud)
    for words in (("pod", "default/agent"), ("pod", "agent"), ("node", "n0")):
        answer = await access(cloud, *words, azure=True)
        assert (answer.code, answer.err) == (0, "")
        assert "today: default/demo" in answer.out
    named = await access(cloud, "pod", "coredns", "-n", "kube-system")
    assert "pod kube-system/coredns is not part of the review" in named.err
    absent, invalid, kind = await asyncio.gather(
        access(cloud, "identity", "demoo"), access(cloud, "pod", "a/b/c"), access(cloud, "cat", "tom")
    )
    assert (absent.code, absent.out, absent.err) == (
        1,
        "",
        "podidctl: the cluster has no identity default/demoo; see podidctl access for all names\n",
    )
    assert (invalid.code, kind.code) == (2, 2)
    assert "is not a pod name; write NAMESPACE/NAME, or NAME with -n NAMESPACE" in invalid.err


async def test_a_host_that_azure_refuses_is_unknown(cloud: EmulatedCloud) -> None:
    await prepared(cloud)
    cloud.node("n7", f"azure://{vm_id('n7')}")
    answer = await access(cloud, "-o", "json", azure=True)
    assert answer.code == 1
    (unknown,) = answer.document["unknown"]
    assert unknown["part"] == "azure"
    assert answer.document["summary"].get("unexplained") is None


async def test_a_policy_decides_the_exit_code_in_every_format(cloud: EmulatedCloud) -> None:
    await prepared(cloud)
    policy = cloud.folder / "policy.yaml"
    policy.write_text(POLICY)
    fine = await access(cloud, "--policy", str(policy), azure=True)
    assert (fine.code, fine.out) == (0, "2 rules, 0 violations\n")
    cloud.pod("thief", "n1", namespace="kube-system")
    violated = await access(cloud, "--policy", str(policy), azure=True)
    assert violated.code == 3
    assert violated.out.startswith("error: demo stays at home: Pod kube-system/thief can use identity default/demo")
    as_sarif, as_junit = await asyncio.gather(
        access(cloud, "--policy", str(policy), "--policy-output", "sarif", azure=True),
        access(cloud, "--policy", str(policy), "--policy-output", "junit", azure=True),
    )
    assert as_sarif.code == as_junit.code == 3
    (result,) = as_sarif.document["runs"][0]["results"]
    assert result["ruleId"] == "demo stays at home"
    root = ElementTree.fromstring(as_junit.out)  # noqa: S314 - the text is the program's own
    assert (root.get("tests"), root.get("failures")) == ("2", "1")


async def test_without_azure_a_rule_about_it_is_not_decided(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    policy = cloud.folder / "policy.yaml"
    policy.write_text(POLICY)
    answer = await access(cloud, "--policy", str(policy))
    assert answer.code == 1
    assert "unknown: nothing strange: azure: it was not read; pass --cloudconfig" in answer.out
    policy.write_text("version: 1\nrules: [{rule: nonsense, name: a}]")
    wrong = await access(cloud, "--policy", str(policy))
    assert (wrong.code, wrong.out) == (1, "")
    assert "is not a policy: line 2: Invalid value 'nonsense'" in wrong.err
    missing = await access(cloud, "--policy", str(cloud.folder / "none.yaml"))
    assert (missing.code, "cannot read" in missing.err) == (1, True)


async def test_changes_since_a_stored_review_are_shown(cloud: EmulatedCloud) -> None:
    await prepared(cloud)
    before, after = cloud.folder / "before.json", cloud.folder / "after.json"
    before.write_text((await access(cloud, "-o", "json")).out)
    unchanged = await access(cloud, "--diff", str(before))
    assert (unchanged.code, unchanged.out.split(maxsplit=2)[:2]) == (0, ["0", "changes"])
    cloud.pod("thief", "n1")
    changed = await access(cloud, "--diff", str(before))
    assert changed.code == 3
    assert "+ workload default/Pod thief: can use identity default/demo through binding default/demo" in changed.out
    after.write_text((await access(cloud, "-o", "json")).out)
    without_a_cluster = await offline(cloud, "--diff", str(before), str(after), "-o", "json")
    assert without_a_cluster.code == 3
    (one,) = [each for each in without_a_cluster.document["differences"] if "can use" in each["says"]]
    assert one["sign"] == "+"
    again = await offline(cloud, "--review", str(after), "-o", "json")
    assert again.document == json.loads(after.read_text())


async def test_a_policy_on_a_stored_review_of_a_part_is_rejected(cloud: EmulatedCloud) -> None:
    await prepared(cloud)
    policy, part, whole = (cloud.folder / name for name in ("policy.yaml", "part.json", "whole.json"))
    policy.write_text("version: 1\nrules: [{rule: identity-only-from, name: a, identities: ['*'], namespaces: [none]}]")
    part.write_text((await access(cloud, "namespace", "kube-system", "-o", "json")).out)
    whole.write_text((await access(cloud, "-o", "json")).out)
    rejected = await offline(cloud, "--policy", str(policy), "--review", str(part))
    assert (rejected.code, rejected.out) == (1, "")
    assert "is a review of namespace kube-system only, and a policy tests the whole cluster" in rejected.err
    assert (await offline(cloud, "--policy", str(policy), "--review", str(whole))).code == 3


async def test_json_and_yaml_output_are_equal(cloud: EmulatedCloud) -> None:
    await prepared(cloud)
    as_json, as_yaml = await asyncio.gather(access(cloud, "-o", "json"), access(cloud, "-o", "yaml"))
    first, second = as_json.document, yaml.safe_load(as_yaml.out)
    first.pop("readAt"), second.pop("readAt")
    assert first == second


async def test_options_that_exclude_each_other_are_rejected(cloud: EmulatedCloud, tmp_path: Path) -> None:
    wrong = await asyncio.gather(
        offline(cloud, "--policy", "a", "--diff", "b"),
        offline(cloud, "--policy", "a", "node", "n0"),
        offline(cloud, "--policy", "a", "-o", "json"),
        offline(cloud, "--diff", "a", "-o", "dot"),
        offline(cloud, "node", "n0", "--review", "a"),
    )
    assert [each.code for each in wrong] == [2] * 5
    nothing = await offline(cloud, "--review", str(tmp_path / "none.json"))
    assert (nothing.code, nothing.out) == (1, "")


async def test_a_kind_that_may_not_be_read_is_unknown_with_the_missing_right(cloud: EmulatedCloud) -> None:
    await prepared(cloud)

    def refuse(call: Recorded) -> None:
        if "rbac.authorization" in call.path or "/nodes" in call.path:
            raise StatusError(403, "Forbidden", "not you")

    cloud.api.intercept = refuse
    answer = await access(cloud)
    assert answer.code == 1
    assert "unknown: nodes: not allowed: not you; needed: list on nodes" in answer.out
    assert "unknown: rbac: not allowed: not you; needed: list on roles, clusterroles" in answer.out
    assert "default/demo" in answer.out


async def test_names_in_objects_cannot_control_the_terminal(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity("demo", resourceID="\x1b]0;owned\x07/subscriptions/typo")
    grant(cloud, {"kind": "User", "name": "\x1b[2Jeve"})
    for output in ("table", "wide", "json", "yaml", "dot"):
        answer = await access(cloud, "-o", output)
        assert answer.code == 0, answer.err
        assert all(each.isprintable() or each == "\n" for each in answer.out)

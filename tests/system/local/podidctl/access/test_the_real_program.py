"""`python -m podidctl access` as a process on the sandbox's servers."""

from typing import Any

from tests.support.mic.emulated_cloud import EmulatedCloud
from tests.support.mic.preview.run_programs import CommandResult, run
from tests.support.objects import identity_id, vm_id

RBAC = "rbac.authorization.k8s.io"
POLICY = """
version: 1
rules:
  - {name: demo stays at home, rule: identity-only-from, identities: [demo], namespaces: [default]}
  - {name: nothing strange, rule: no-unexplained-identities}
"""


async def access(cloud: EmulatedCloud, *words: str, azure: bool = False) -> CommandResult:
    return await run(cloud.folder, "podidctl", "access", *words, cloudconfig=azure)


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


async def test_the_cluster_and_azure_are_read_and_nothing_is_written_and_a_policy_decides_the_exit_code(
    cloud: EmulatedCloud,
) -> None:
    cloud.node("n0")
    cloud.node("n1")
    cloud.identity()
    await cloud.mic()
    cloud.pod("web", "n0")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    privileged(cloud, "agent", "n0")
    grant(cloud, {"kind": "User", "name": "anna"})
    before = len(cloud.arm.writes())
    answer = await access(cloud, "-o", "json", azure=True)
    assert (answer.code, answer.err) == (0, ""), answer.out
    document = answer.document
    assert document["azure"] == "read"
    (only_grant,) = document["grants"]
    assert (only_grant["pod"], only_grant["identity"], only_grant["state"], only_grant["binding"]) == (
        "default/web",
        "default/demo",
        "usable",
        "default/demo",
    )
    (agent,) = (pod for pod in document["pods"] if pod["name"] == "agent")
    assert [entry["way"] for entry in agent["hostAccess"]] == ["privileged"]
    (vm,) = (host for host in document["hosts"] if host["id"] == vm_id("n0"))
    assert [(identity["resourceId"], identity["explained"]) for identity in vm["attached"]] == [
        (identity_id("demo"), "pods")
    ]
    (anna,) = document["subjects"]
    assert {right["action"] for right in anna["rights"]} == {
        "write bindings",
        "write identities",
        "write exceptions",
        "write assigned identities",
    }
    scoped = await access(cloud, "pod", "agent", azure=True)
    assert (scoped.code, scoped.err) == (0, "")
    assert "today: default/demo" in scoped.out
    page = await access(cloud, "-o", "html", azure=True)
    assert (page.code, page.err) == (0, "")
    assert page.out.startswith("<!DOCTYPE html>\n")
    assert page.out.rstrip().endswith("</html>")
    assert "default/web" in page.out
    assert len(cloud.arm.writes()) == before
    before_review = cloud.folder / "before.json"
    before_review.write_text(answer.out)
    unchanged = await access(cloud, "--diff", str(before_review), azure=True)
    assert (unchanged.code, unchanged.err) == (0, "")
    assert unchanged.out.startswith("0 changes")
    policy = cloud.folder / "policy.yaml"
    policy.write_text(POLICY)
    fine = await access(cloud, "--policy", str(policy), azure=True)
    assert (fine.code, fine.out) == (0, "2 rules, 0 violations\n")
    unread = await access(cloud, "--policy", str(policy))
    assert unread.code == 1
    assert "unknown: nothing strange: azure: it was not read; pass --cloudconfig" in unread.out

    cloud.pod("thief", "n1", namespace="kube-system")
    violated = await access(cloud, "--policy", str(policy), "--policy-output", "sarif", azure=True)
    assert violated.code == 3
    (result,) = violated.document["runs"][0]["results"]
    assert result["ruleId"] == "demo stays at home"
    changed = await access(cloud, "--diff", str(before_review), azure=True)
    assert changed.code == 3
    assert "+ workload kube-system/Pod thief: can use identity default/demo through binding default/demo" in changed.out
    absent = await access(cloud, "identity", "demoo")
    names = "podidctl: the cluster has no identity default/demoo; see podidctl access for all names\n"
    assert (absent.code, absent.out, absent.err) == (1, "", names)
    ours = [request for request in cloud.api.requests if "podidctl" in request.user_agent]
    assert {request.method for request in ours} == {"GET"}

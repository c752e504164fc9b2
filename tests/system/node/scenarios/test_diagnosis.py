"""podidctl on a real node with the chart: explain, token, access and top name what the node does.

`test_faults` has the faults that explain and doctor name.
"""

from podidctl.access.schema import AccessReview
from podidctl.top.schema import Sample
from tests.system.node.bed import NAMESPACE
from tests.system.node.podidctl_commands import podidctl
from tests.system.node.scenarios.applications import Applications


def test_the_commands_report_a_pod_with_a_token(apps: Applications) -> None:
    bed = apps.bed
    apps.bind("used")
    apps.run("app", "used")
    apps.eventually("app", "used")
    pod = f"{apps.namespace}/app"

    explained = podidctl(bed, "explain", "pod", pod)
    assert explained.code == 0, explained.text
    assert '"broken"' not in explained.text
    assert podidctl(bed, "token", pod).code == 0

    (grant,) = podidctl(bed, "access", "pod", pod).read(AccessReview).grants
    assert (grant.pod, grant.identity, grant.state) == (pod, f"{apps.namespace}/used", "usable")
    (node,) = podidctl(bed, "access", "node", "node-0").read(AccessReview).nodes
    assert node.nmi == "ready"
    assert any(each.startswith(f"{NAMESPACE}/aad-pod-identity-nmi-") for each in node.host_pods)

    top = podidctl(bed, "top", "--once", "--interval=2")
    (sampled,) = top.read(Sample).nodes
    assert (top.code, sampled.node, sampled.problem) == (0, "node-0", "")
    assert sampled.pods
    assert sampled.tokens
    assert sampled.imds_calls

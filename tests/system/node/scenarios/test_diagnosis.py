"""podidctl on a real node with the chart: explain, token, access and top name what the node does.

`test_faults` has the faults that explain and doctor name.
"""

import msgspec

from podidctl.access.schema import AccessReview
from podidctl.top.sampling import Sample
from tests.system.node.bed import NAMESPACE
from tests.system.node.client import podidctl
from tests.system.node.scenarios.applications import Applications


def test_the_commands_report_a_pod_with_a_token(apps: Applications) -> None:
    bed = apps.bed
    apps.bind_and_run("used")
    pod = f"{apps.namespace}/used"

    explained = podidctl(bed, "explain", "pod", pod)
    assert explained.returncode == 0, explained.stdout
    assert '"broken"' not in explained.stdout
    assert podidctl(bed, "token", pod).returncode == 0

    (grant,) = msgspec.json.decode(podidctl(bed, "access", "pod", pod).stdout, type=AccessReview).grants
    assert (grant.pod, grant.identity, grant.state) == (pod, pod, "usable")
    (node,) = msgspec.json.decode(podidctl(bed, "access", "node", "node-0").stdout, type=AccessReview).nodes
    assert node.nmi == "ready"
    assert any(pod.startswith(f"{NAMESPACE}/aad-pod-identity-nmi-") for pod in node.host_pods)

    top = podidctl(bed, "top", "--once", "--interval=2")
    (sampled,) = msgspec.json.decode(top.stdout, type=Sample).nodes
    assert (top.returncode, sampled.node, sampled.problem) == (0, "node-0", "")
    assert sampled.pods
    assert sampled.tokens
    assert sampled.imds_calls

"""podidctl on a real node with the chart: explain, doctor, token, access and top name what the node does."""

import sys
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from podidctl.access.schema import AccessReview
from podidctl.top.schema import Sample
from tests.realnode import client
from tests.realnode.bed import NAMESPACE, Bed
from tests.realnode.processes import wait_for
from tests.realnode.scenarios.applications import Applications

T = TypeVar("T")
SECONDS = 30


@dataclass(frozen=True)
class Output:
    """Exit code and document of a command."""

    code: int
    text: str

    def read(self, kind: type[T]) -> T:
        return msgspec.json.decode(self.text, type=kind)


def podidctl(bed: Bed, *words: str) -> Output:
    """Run the command as the administrator of the cluster, with JSON output."""
    done = bed.commands.done(sys.executable, "-m", "podidctl", *words, "-o", "json")
    assert done.stdout, done.stderr
    return Output(done.returncode, done.stdout)


class Link(msgspec.Struct):
    """A link of `explain`'s document."""

    link: str
    state: str
    next: str = ""


class Explanation(msgspec.Struct):
    """The used part of `explain`'s document."""

    links: list[Link]

    @property
    def broken(self) -> list[str]:
        return [each.link for each in self.links if each.state == "broken"]


def test_the_commands_find_no_fault_for_a_pod_with_a_token(apps: Applications) -> None:
    apps.bind("right")
    apps.run("app", "right")
    apps.eventually("app", "right")
    pod = f"{apps.namespace}/app"
    explained = podidctl(apps.bed, "explain", "pod", pod)
    assert (explained.code, explained.read(Explanation).broken) == (0, []), explained.text
    assert podidctl(apps.bed, "token", pod).code == 0


def test_explain_and_token_name_the_client_id_of_another_identity(apps: Applications) -> None:
    other = apps.create_identity("other")
    apps.bind("wrong", client_id=other.client_id)
    apps.run("app", "wrong")
    apps.wait_for_attached("wrong")
    assert client.token(apps.bed, "app", namespace=apps.namespace, seconds=SECONDS).status != 200
    pod = f"{apps.namespace}/app"
    wait_for(lambda: podidctl(apps.bed, "explain", "pod", pod).code == 3, SECONDS, "explain finds no fault")
    explained = podidctl(apps.bed, "explain", "pod", pod).read(Explanation)
    assert explained.broken == ["assigned identity"]  # MIC assigns nothing until the object is corrected
    assert all(each.next for each in explained.links if each.state == "broken")
    assert podidctl(apps.bed, "token", pod).code == 3


def test_access_shows_the_pods_identity_and_who_else_reaches_it(apps: Applications) -> None:
    apps.bind("used")
    apps.run("app", "used")
    apps.eventually("app", "used")
    review = podidctl(apps.bed, "access", "pod", f"{apps.namespace}/app").read(AccessReview)
    (grant,) = review.grants
    assert (grant.pod, grant.identity, grant.state) == (f"{apps.namespace}/app", f"{apps.namespace}/used", "usable")
    (node,) = podidctl(apps.bed, "access", "node", "node-0").read(AccessReview).nodes
    assert node.nmi == "ready"
    assert any(pod.startswith(f"{NAMESPACE}/aad-pod-identity-nmi-") for pod in node.host_pods)


def test_top_shows_the_requests_of_the_node(apps: Applications) -> None:
    apps.bind("busy")
    apps.run("app", "busy")
    apps.eventually("app", "busy")
    top = podidctl(apps.bed, "top", "--once", "--interval=2")
    (node,) = top.read(Sample).nodes
    assert (top.code, node.node, node.problem) == (0, "node-0", "")
    assert node.pods
    assert node.tokens
    assert node.imds_calls

"""The start of NMI on a node without its image: the kubelet pulls it from a registry of the test bed, then starts it.

The registry is outside of the node, on the same machine: the time of a pull is decompression and unpacking, without a
network. The figures are printed and written to RESULTS.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
import pytest

from podidentity.version import VERSION
from tests.realnode import oci
from tests.realnode.bed import NAMESPACE, Bed
from tests.realnode.configuration import REGISTRIES, REPOSITORY
from tests.realnode.evaluation import parse_pull
from tests.realnode.node import Node
from tests.realnode.options import OUTSIDE_ADDRESS, REGISTRY_PORT, Options
from tests.realnode.processes import wait_for
from tests.realnode.programs import BUILD, IMAGES
from tests.realnode.registry import Registry

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

RESULTS: Final = BUILD / "cold_pull.json"
STARTS: Final = 3
SECONDS: Final = 30.0
"""Far above what a quiet machine needs, both for a pull and for a start with it."""
END_SECONDS: Final = 120
"""The kubelet removes the containers of an ended pod at once, or a minute later."""
LABEL: Final = "with-nmi"


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """One start, from the label of the node, which lets the DaemonSet create a pod, until the pod is Ready."""

    cold: bool
    ready_seconds: float
    pull_seconds: float = 0.0
    """From the kubelet's call to the end of unpacking, as the kubelet's Event states it."""
    load: float
    """The machine's load average before the start."""


def ctr(node: Node, *arguments: str) -> list[list[str]]:
    """Return the words of each line that ctr prints about the kubelet's images and containers."""
    done = node.run(str(node.programs.ctr), "--namespace=k8s.io", *arguments)
    return [line.split() for line in done.splitlines()]


def remove_images(node: Node) -> None:
    """Remove the project's images and everything of them, also their common base. Their containers must have ended."""
    names = tuple(f"{REPOSITORY}/{each}:" for each in ("nmi", "mic", "demo"))
    # Each image has several names with one digest. Without all of them, its content remains.
    images = ctr(node, "images", "list")
    digests = {line[2] for line in images if line[0].startswith(names)}
    found = {line[0] for line in images if line[2] in digests}

    def ended() -> bool:
        return not any(line[1] in found for line in ctr(node, "containers", "list"))

    wait_for(ended, END_SECONDS, "containers of the images still exist")
    if found:
        ctr(node, "images", "remove", "--sync", *found)


@contextmanager
def serving(bed: Bed, registry: Registry) -> Iterator[None]:
    """Serve the registry outside of the nodes, and let the nodes pull all images of `localhost/` from it."""
    bed.azure.run(registry.start(OUTSIDE_ADDRESS, REGISTRY_PORT))
    # containerd 1.6 requires a table of hosts.
    text = f'[host."http://{OUTSIDE_ADDRESS}:{REGISTRY_PORT}"]\ncapabilities = ["pull", "resolve"]\n'
    for node in bed.nodes:
        write = 'mkdir -p "$1" && printf %s "$2" >"$1/hosts.toml"'
        node.run("sh", "-c", write, "write", f"{REGISTRIES}/localhost", text)
    try:
        yield
    finally:
        bed.azure.run(registry.stop())


def start(bed: Bed, *, cold: bool) -> tuple[Start, int]:
    """Let NMI start on the first node, and end again. Return the start and the size that the kubelet pulled."""
    node = bed.nodes[0]
    load, begin = round(os.getloadavg()[0], 1), time.monotonic()
    bed.kubectl("label", "node", node.name, f"{LABEL}=true")

    def is_ready() -> bool:
        conditions = (condition for each in bed.nmi_pods() for condition in each["status"].get("conditions", ()))
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    wait_for(is_ready, 2 * SECONDS, "NMI is not Ready")
    ready_seconds = time.monotonic() - begin
    of_pod = f"--field-selector=involvedObject.name={bed.nmi_pod()},reason=Pulled"

    def messages() -> list[str]:
        return [str(each["message"]) for each in bed.objects("events", f"--namespace={NAMESPACE}", of_pod)]

    wait_for(messages, SECONDS, "the kubelet reports nothing about NMI's image")
    pulled = parse_pull(messages()[0])
    assert (pulled is not None) is cold, messages()
    pull_seconds, size = pulled or (0.0, 0)
    bed.kubectl("label", "node", node.name, f"{LABEL}-")
    wait_for(lambda: not bed.objects("pods", f"--namespace={NAMESPACE}"), END_SECONDS, "NMI's pod still exists")
    return Start(cold=cold, ready_seconds=round(ready_seconds, 2), pull_seconds=pull_seconds, load=load), size


def test_a_node_without_the_image_pulls_it_and_nmi_is_ready_soon() -> None:
    image = oci.read_image(IMAGES / "nmi.tar")
    compressed = sum(image.layers.values())
    registry = Registry({f"{REPOSITORY.partition('/')[2]}/nmi:{VERSION}": image})
    starts: list[Start] = []
    with Bed(Options()) as bed, serving(bed, registry):
        # No MIC, whose image would keep the common base on the node.
        bed.install({"mic": {"replicas": 0}, "nmi": {"nodeSelector": {LABEL: "true"}}})
        for _ in range(STARTS):
            remove_images(bed.nodes[0])
            registry.sent.clear()
            cold, size = start(bed, cold=True)
            # Every layer came from the registry: nothing of a former image was left.
            assert set(image.layers) <= {each.digest for each in registry.sent}
            assert compressed <= size <= compressed + len(image.content[image.digest]) + 10_000
            starts.append(cold)
        registry.sent.clear()
        starts += [start(bed, cold=False)[0] for _ in range(STARTS)]
        assert registry.sent == []
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode({"compressed": compressed, "starts": starts})))
    print(f"\nNMI's image, {compressed / 1e6:.1f} MB:", *starts, sep="\n")  # noqa: T201 - the figures of the report
    for each in starts:
        assert each.pull_seconds < SECONDS, each
        assert each.ready_seconds < SECONDS, each

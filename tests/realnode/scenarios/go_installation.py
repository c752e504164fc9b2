"""A release of the Go implementation's chart on a test bed, with given programs."""

from pathlib import Path
from typing import Final

from tests.deploy.go_implementation_chart import CLOUD, write_chart
from tests.realnode.bed import INSTALL_SECONDS, NAMESPACE, RELEASE, Bed
from tests.realnode.go_programs import GoPrograms
from tests.realnode.programs import IMAGES, ROOT

CRDS: Final = ROOT / "tests" / "mic" / "reference" / "crds.yaml"
CHAIN: Final = "aad-metadata"
"""NMI's chain in the nat table. reference: pkg/nmi/iptables/iptables.go."""
WHERE: Final = (f"--namespace={NAMESPACE}", f"--timeout={INSTALL_SECONDS}s", "--wait")


def create_definitions(bed: Bed) -> None:
    """Create the Go implementation's definitions as helm 3 does, and wait until they are served. Raise CommandError."""
    bed.kubectl("create", "--field-manager=helm", f"--filename={CRDS}")
    bed.kubectl("wait", "--for=condition=Established", "customresourcedefinitions", "--all", "--timeout=60s")


def install_programs(bed: Bed, folder: Path, programs: GoPrograms) -> None:
    """Install the chart with *programs* and wait until their pods are Ready. Raise CommandError."""
    for archive in programs.write_images(IMAGES, bed.folder, bed.files.certificates.read_bytes()):
        for node in bed.nodes:
            node.import_image(archive)
    for node in bed.nodes:
        node.run("install", "-m", "0644", str(bed.files.environment), CLOUD)
    create_definitions(bed)
    chart = write_chart(folder, release=RELEASE, programs=programs.images)
    bed.commands.helm("install", RELEASE, str(chart), *WHERE, "--create-namespace")


def has_chain(bed: Bed) -> bool:
    """Return whether the Go implementation's chain redirects the pods of the first node.

    This project's chain has the same name and another destination.
    """
    node = bed.nodes[0]
    rules = node.run("iptables", "-t", "nat", "-S")
    return f"-A PREROUTING -j {CHAIN}\n" in rules and f"--to-destination {node.addresses.node}:2579\n" in rules

"""`helm upgrade` from an earlier version to this one, and `helm rollback`, while pods send requests all the time.

FORMER names the earlier version by a tag or a commit; without it, it is the newest tag before HEAD. Both have the same
values, apart from the tags.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from podidentity.version import VERSION
from tests.support.checkout import ROOT
from tests.system.node import client
from tests.system.node.bed import MIC_LABELS, NAMESPACE, RELEASE, Bed
from tests.system.node.manifests import REPOSITORY
from tests.system.node.oci import Image
from tests.system.node.processes import BedError, wait_for
from tests.system.node.programs import build_images
from tests.system.node.scenario import PROBERS, Load, Scenarios
from tests.system.node.scenarios.applications import SECONDS, Applications

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]
"""The images of the earlier version may have to be built."""

RATE: Final = float(os.environ.get("RATE", "500"))
LEASE: Final = "aad-pod-identity-mic"
RECORD: Final = "aad-pod-identity-config"
WITHOUT_TAGS: Final = "ecac30c7e982943bf9c9b5cfc4eb08b4a2d8607b"
"""The version while the repository has no tag: a commit of 2026-11-28 whose NMI has a handover."""
EARLIER_TAG: Final = "earlier"
"""The tag of the images of the earlier version, which may have the same version as the present ones."""
EARLIER: Final[Mapping[str, Any]] = {"nmi": {"tag": EARLIER_TAG}, "mic": {"tag": EARLIER_TAG}}


def former() -> tuple[str, Path]:
    """Return name and folder of the earlier version. Its images are built if they do not exist.

    That takes eight to fifteen minutes. Raise BedError if the repository does not have the commit, or the build fails.
    """
    newest = ("describe", "--tags", "--abbrev=0", "--match=v[0-9]*", "HEAD^")
    name = os.environ.get("FORMER", "") or git(*newest) or WITHOUT_TAGS
    commit = git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if not commit:
        raise BedError(
            f"this repository has no {name}, whose images an upgrade starts from; fetch its whole history and tags "
            "(git fetch --unshallow --tags), or set FORMER to another tag or commit"
        )
    folder = ROOT / "build" / "former" / commit
    if not (folder / ".git").exists():
        part = folder.with_name(f"{commit}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(part)], check=True)
        subprocess.run(["git", "checkout", "--quiet", "--detach", commit], cwd=part, check=True)
        part.rename(folder)
    # Its own script, because the present one may build images that its sources do not have.
    build_images(folder)
    return name if name != commit else name[:7], folder


def git(*arguments: str) -> str:
    """Return what git prints; nothing if it fails."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def state(bed: Bed) -> tuple[dict[tuple[str, str], Any], dict[str, str]]:
    """Return what an upgrade must not change: uid, specification and status of each AzureAssignedIdentity, by pod and
    name, and MIC's record of the rewrite of old field names.
    """
    assignments = {
        (assignment["spec"]["pod"], assignment["metadata"]["name"]): (
            assignment["metadata"]["uid"],
            assignment["spec"],
            assignment["status"],
        )
        for assignment in bed.assignments()
    }
    (record,) = bed.objects("configmaps", f"--namespace={NAMESPACE}", f"--field-selector=metadata.name={RECORD}")
    return assignments, dict(record["data"])


def wait_for_version(bed: Bed, tag: str) -> None:
    """Fail unless NMI and MIC have images of this tag. Wait until such a pod of MIC holds the lease. Raise BedError."""
    containers = [container for pod in bed.present_pods() for container in pod["spec"]["containers"]]
    assert {container["image"].rpartition(":")[2] for container in containers} == {tag}

    def held() -> bool:
        (lease,) = bed.objects("leases", "--namespace=default", f"--field-selector=metadata.name={LEASE}")
        names = tuple(pod["metadata"]["name"] for pod in bed.present_pods(f"--selector={MIC_LABELS}"))
        return str(lease["spec"].get("holderIdentity", "")).startswith(names)

    wait_for(held, SECONDS, "no present MIC holds the lease")


def measure(scenarios: Scenarios, load: Load, name: str, action: Callable[[], object]) -> None:
    """Run *action*. Fail if one request of a pod with an identity has another outcome than a token of it.

    The interruption is printed only.
    """
    begin = time.time()
    result = scenarios.measure(name, action, load=load)
    print(f"{result.scenario}: {result.interruption_seconds} s; {result.remark} {dict(result.outcomes)}")  # noqa: T201 - shown by pytest -rP
    assert result.has_no_effect, result
    for pod, expected in PROBERS.items():
        probes = scenarios.probes(pod, begin)
        assert probes
        assert not expected or {probe.outcome for probe in probes} == {expected}, pod


def test_upgrade_and_rollback_fail_no_request_and_lose_no_assignment() -> None:
    earlier, folder = former()
    with Bed() as bed:
        for name in ("nmi", "mic"):
            bed.import_image(Image.read(folder / "build/images" / f"{name}.tar"), f"{REPOSITORY}/{name}:{EARLIER_TAG}")
        bed.install(EARLIER, chart=folder / "deploy" / "charts" / RELEASE)
        scenarios, load, apps = Scenarios(bed), Load(bed, RATE), Applications(bed, "default")
        scenarios.create_probers()
        load.start()
        apps.bind_and_run("of-the-former")
        wait_for_version(bed, EARLIER_TAG)
        before, changes = state(bed), bed.azure.changes(apps.machine)

        measure(scenarios, load, f"helm upgrade from {earlier}", lambda: bed.install(command="upgrade"))
        wait_for_version(bed, VERSION)
        assert state(bed) == before
        assert bed.azure.changes(apps.machine) == changes, "no identity is attached or detached"
        assert client.token(bed, "of-the-former").token_of == "of-the-former"
        for name in ("of-the-present", "deleted-later"):
            apps.bind_and_run(name)
        before, changes = state(bed), bed.azure.changes(apps.machine)

        measure(scenarios, load, f"helm rollback to {earlier}", lambda: bed.helm("rollback", RELEASE, "1"))
        bed.wait_for_nmi()
        wait_for_version(bed, EARLIER_TAG)
        assert state(bed) == before
        assert bed.azure.changes(apps.machine) == changes
        for name in ("of-the-former", "of-the-present", "deleted-later"):
            assert client.token(bed, name).token_of == name
        apps.delete("pod", "deleted-later")
        wait_for(lambda: "deleted-later" not in str(state(bed)), SECONDS, "the assignment of a deleted pod remains")
        apps.wait_for_detached("deleted-later")
        apps.bind_and_run("after-the-rollback")
        load.stop()

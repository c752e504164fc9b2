"""Programs of the built images with a read-only root, as the image's user, on the image's Python."""

import asyncio
import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from podidentity.version import VERSION
from podidentity_sandbox import launching
from podidentity_sandbox.demo import Demo
from podidentity_sandbox.kubeapi import KubeApi
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.serving import free_ports
from podidentity_sandbox.settings import SandboxSettings
from tests.system.images.conftest import PYTHON, Image


@pytest.mark.parametrize("name", ["nmi", "mic", "podidctl"])
def test_a_program_prints_its_version(name: str) -> None:
    image = Image(name)
    printed = image.run(image.command("--version"))
    assert (printed.returncode, printed.stdout) == (0, f"{name} {VERSION}\n"), printed.stderr


@pytest.mark.parametrize("name", ["nmi", "mic"])
def test_help_finds_its_texts_in_the_image(name: str) -> None:
    image = Image(name)
    printed = image.run(image.command("--help"))
    assert "Path of a kubeconfig." in " ".join(printed.stdout.split()), printed.stderr


def test_a_wrong_flag_of_the_demo_is_a_usage_error() -> None:
    image = Image("demo")
    refused = image.run(image.command("--no-such-flag"))
    assert refused.returncode == 2
    assert "--subscriptionid" in refused.stderr


@pytest.mark.parametrize(
    "arguments", [["nmi", "--node=n", "--redirect=none"], ["mic"], ["mic", "--plan"]], ids=["nmi", "mic", "mic --plan"]
)
def test_a_kubeconfig_is_rejected_with_the_next_action(arguments: list[str]) -> None:
    config = "/etc/os-release"  # any file that each image has
    name, *flags = arguments
    image = Image(name)
    azure = {"CLOUD": "AzurePublicCloud", "TENANT_ID": "t", "USE_MSI": "true", "SUBSCRIPTION_ID": "s"}
    probe_port, metrics_port = free_ports(2)
    ports = [f"--http-probe-port={probe_port}", f"--prometheus-port={metrics_port}"]
    command = image.command(*flags, *ports, f"--kubeconfig={config}")
    refused = image.run(command, MIC_POD_NAMESPACE="default", **azure)
    assert refused.returncode == 1
    assert f"{name}: cannot read the kubeconfig {config} without the package kubernetes" in refused.stderr
    assert "pipx install --force '.[kubeconfig,mic,nmi]' in a checkout" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(("name", "user"), [("nmi", "0"), ("mic", "65532"), ("podidctl", "65532"), ("demo", "65532")])
def test_a_program_runs_as_the_images_user_and_cannot_write(name: str, user: str) -> None:
    image = Image(name)
    code = "import os; print(os.getuid()); open('/opt/podidentity/x', 'w')"
    result = image.run(image.enter(PYTHON, "-c", code))
    assert result.stdout == f"{user}\n"
    assert "Read-only file system" in result.stderr or "Permission denied" in result.stderr


def root_of(pid: int) -> Path:
    """Return the root of the file system of a process."""
    return Path(f"/proc/{pid}/root").readlink()


def in_cluster(api: KubeApi | None, folder: Path, command: list[str]) -> list[str]:
    """Return *command* with the environment of a pod: address of the API server, and service account in *folder*."""
    assert api is not None
    folder.mkdir(exist_ok=True)
    for name, content in (("token", api.token), ("ca.crt", api.authority.pem), ("namespace", "default")):
        (folder / name).write_text(content)
    where = urlsplit(api.url)
    environment = {
        "KUBERNETES_SERVICE_HOST": where.hostname,
        "KUBERNETES_SERVICE_PORT": where.port,
        "SERVICE_ACCOUNT": folder,
    }
    words = [word for word in command if not word.startswith("--kubeconfig=")]
    return ["env", *(f"{name}={value}" for name, value in environment.items()), *words]


READS = ("doctor", "explain pod default/none", "access", "plan --no-azure", "migrate from-reference", "top --once")
"""Commands of podidctl that read the cluster."""


def test_podidctls_image_states_in_one_line_that_it_has_no_sandbox() -> None:
    image = Image("podidctl")
    refused = image.run(image.command("sandbox", "demo"))
    assert refused.stderr.startswith("podidctl: the sandbox runs NMI, whose compiled modules")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)


async def test_podidctl_reads_the_cluster_with_the_service_account_of_its_pod() -> None:
    async with Sandbox(SandboxSettings(namespaces=True, programs=False, environment=os.environ)) as sandbox:
        sandbox.folder.chmod(0o711)
        image = Image("podidctl")
        account = sandbox.folder / "serviceaccount"
        for words in READS:
            command = in_cluster(sandbox.cluster.api, account, image.command(*words.split()))
            for path in [account, *account.iterdir()]:
                path.chmod(0o755)  # the program is not root
            result = await asyncio.to_thread(image.run, command)
            assert result.returncode in {0, 1, 3}, (words, result.stderr)
            assert "Traceback" not in result.stderr, words
            assert "cannot reach" not in result.stderr, words
            assert result.stdout + result.stderr, words


async def test_the_readmes_demo_runs_with_all_three_programs_from_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox(SandboxSettings(namespaces=True, environment=os.environ))

    def out_of_images(module: str, *arguments: str) -> list[str]:
        """Return the command that replaces the sandbox's Python."""
        if module == "podidentity_demo":
            # It is not root, and the sandbox's certificates are.
            sandbox.folder.chmod(0o711)
            sandbox.files.certificates.chmod(0o644)
            return Image("demo").command(*arguments)
        # MIC reads azure.json, which is root's on a node as here: the pod's security context says so there.
        command = Image(module).command(*arguments, user="0:0")
        return in_cluster(sandbox.cluster.api, sandbox.folder / "serviceaccount", command)

    monkeypatch.setattr("podidentity_sandbox.sandbox.python", out_of_images)
    monkeypatch.setattr(launching, "python", out_of_images)
    demo = Demo(sandbox)
    roots = set()
    async for step in demo.steps():
        if step.name.startswith("the pod uses"):
            programs = [sandbox.mic, *(nmi.program for nmi in sandbox.nmis.values())]
            roots = {root_of(program.pid) for program in programs if program is not None}
    assert len(demo.lines) == 4
    assert roots == {Image("mic").root, Image("nmi").root}

"""NMI and MIC as their images have them: without the package that reads a kubeconfig."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from podidentity_sandbox.serving import free_ports

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has every package of this one but `kubernetes`, and this tree's own."""
    home = tmp_path_factory.mktemp("lean")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(home)], check=True)
    (site,) = home.glob("lib/python3*/site-packages")
    for each in Path(sysconfig.get_path("purelib")).iterdir():
        if not each.name.startswith(("kubernetes", "aad_pod_identity")) and each.suffix != ".pth":
            (site / each.name).symlink_to(each)
    (site / "this_tree.pth").write_text(f"{ROOT}\n")
    return home / "bin" / "python3"


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_text(
        json.dumps(
            {
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
                "users": [{"name": "u", "user": {"token": "abc"}}],
            }
        )
    )
    return path


@pytest.mark.parametrize(
    "flags",
    [
        ["nmi", "--node=n", "--redirect=none"],
        ["mic"],
        ["mic", "--plan"],
    ],
    ids=["nmi", "mic", "mic --plan"],
)
def test_a_program_names_the_package_to_install_in_one_line_and_why_no_image_has_it(
    python: Path, kubeconfig: Path, tmp_path: Path, flags: list[str]
) -> None:
    program = flags[0]
    probe_port, metrics_port, port = free_ports(3)
    ports = [f"--http-probe-port={probe_port}", f"--prometheus-port={metrics_port}"]
    own = [f"--nmi-port={port}"] if program == "nmi" else []
    azure = {"CLOUD": "AzurePublicCloud", "TENANT_ID": "t", "USE_MSI": "true", "SUBSCRIPTION_ID": "s"}
    done = subprocess.run(
        [str(python), "-P", "-m", *flags, *ports, *own, f"--kubeconfig={kubeconfig}"],
        cwd=tmp_path,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MIC_POD_NAMESPACE": "default", **azure},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    (message,) = [line for line in done.stderr.splitlines() if line.startswith(f"{program}: ")]
    assert done.returncode == 1
    assert f"{program}: cannot read the kubeconfig {kubeconfig} without the package kubernetes" in message
    assert "pip install 'aad-pod-identity[kubeconfig]'" in message
    assert "no image has this package" in message
    assert "Traceback" not in done.stderr

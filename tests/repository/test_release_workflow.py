"""The workflow that publishes a release: who can start it, what its jobs may do, and what they run."""

import re
from typing import Any, Final

import pytest
import yaml

from tests.support.checkout import ROOT

TEXT: Final = (ROOT / ".github" / "workflows" / "release.yml").read_text()
WORKFLOW: Final[dict[Any, Any]] = yaml.safe_load(TEXT)
JOBS: Final[dict[str, dict[str, Any]]] = WORKFLOW["jobs"]
STEPS: Final = [(name, step) for name, job in JOBS.items() for step in job["steps"]]
TARGETS: Final = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
BUILDERS: Final = {"sources", "wheels", "images"}
SIGN: Final = {"id-token": "write", "attestations": "write"}
PERMISSIONS: Final = {
    "sources": {"contents": "read"},
    "wheels": {"contents": "read"},
    "images": {"contents": "read"},
    "push-images": {"contents": "read", "packages": "write", **SIGN},
    "push-chart": {"contents": "read", "packages": "write", **SIGN},
    "publish": {"contents": "write", **SIGN},
}
PREPARATION: Final = (
    "apt-get update -q",
    "apt-get install -y -q --no-install-recommends ",
    'git config --global --add safe.directory "$GITHUB_WORKSPACE"',
)
"""Commands that are not a target of the Makefile."""


def test_only_the_tag_of_a_version_starts_it() -> None:
    assert WORKFLOW[True] == {"push": {"tags": ["v[0-9]*"]}}  # YAML reads the key `on` as true


def test_each_job_has_exactly_the_permissions_that_it_needs_and_no_stored_secret() -> None:
    assert "secrets." not in TEXT
    assert {name for name, step in STEPS if "github.token" in str(step)} == set(JOBS) - BUILDERS
    assert WORKFLOW["permissions"] == {}
    assert {name: job["permissions"] for name, job in JOBS.items()} == PERMISSIONS


def test_a_job_that_publishes_needs_the_approval_of_the_environment() -> None:
    publishing = {name for name, job in JOBS.items() if "write" in job["permissions"].values()}
    assert publishing == set(JOBS) - BUILDERS
    assert {name for name, job in JOBS.items() if job.get("environment") == "release"} == publishing


def test_nothing_is_published_before_everything_is_built_and_tested() -> None:
    def before(name: str) -> set[str]:
        needs = JOBS[name].get("needs", [])
        direct = {needs} if isinstance(needs, str) else set(needs)
        return direct.union(*map(before, direct))

    assert all(before(name) >= BUILDERS for name in set(JOBS) - BUILDERS)
    assert before("publish") == set(JOBS) - {"publish"}


def test_no_checkout_keeps_the_token() -> None:
    checkouts = [step for _, step in STEPS if step.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) == len(JOBS)
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_an_action_is_pinned_by_one_commit_and_the_comment_names_the_version() -> None:
    used = set(re.findall(r"uses: (.+)", TEXT))
    for line in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line)
    assert len(used) == len({line.partition("@")[0] for line in used})


@pytest.mark.parametrize("run", [step["run"] for _, step in STEPS if "run" in step])
def test_a_command_is_a_target_of_the_makefile(run: str) -> None:
    assert "${{" not in run, "an expression is expanded into a command"
    for line in run.replace("\\\n", " ").splitlines():
        if line.startswith(PREPARATION):
            continue
        target = re.fullmatch(r'make ([a-z-]+)( >> "\$GITHUB_OUTPUT")?', line)
        assert target is not None, line
        assert target[1] in TARGETS


def test_each_image_of_the_dockerfile_is_built_for_both_architectures_and_pushed() -> None:
    runners = ["ubuntu-24.04", "ubuntu-24.04-arm"]
    assert [JOBS[name]["strategy"]["matrix"]["runner"] for name in ("wheels", "images")] == [runners, runners]
    dockerfile = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    images = re.findall(r"^FROM runtime AS (\S+)$", dockerfile, re.MULTILINE)
    assert JOBS["push-images"]["strategy"]["matrix"]["program"] == images


def attested(action: str) -> list[dict[str, Any]]:
    """Return the inputs of each use of *action*."""
    return [step["with"] for _, step in STEPS if step.get("uses", "").startswith(f"actions/{action}@")]


def test_images_chart_and_files_have_a_signature_a_provenance_and_a_bill() -> None:
    signed = [step["env"]["SUBJECT"] for _, step in STEPS if step.get("run") == "make release-sign"]
    digests = [f"${{{{ steps.push.outputs.{output} }}}}" for output in ("index", "amd64", "arm64", "digest")]
    assert signed == [f"${{{{ steps.push.outputs.name }}}}@{digest}" for digest in (digests[0], digests[3])]
    assert [
        step["subject-digest"] for step in attested("attest-build-provenance") if "subject-digest" in step
    ] == digests
    assert [step["subject-digest"] for step in attested("attest-sbom") if "subject-digest" in step] == digests[1:]
    assert attested("attest-build-provenance")[-1] == {"subject-checksums": "build/release/dist/SHA256SUMS"}
    assert all(step["push-to-registry"] is True for step in attested("attest-sbom") if "subject-digest" in step)


def test_each_bill_is_a_file_that_a_job_before_has_made() -> None:
    made = {"chart.cdx.json", "python-linux_x86_64.cdx.json", "python-linux_aarch64.cdx.json"}
    made |= {f"${{{{ matrix.program }}}}-{architecture}.cdx.json" for architecture in ("amd64", "arm64")}
    assert {step["sbom-path"].removeprefix("build/release/dist/") for step in attested("attest-sbom")} == made

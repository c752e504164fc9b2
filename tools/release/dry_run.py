"""All steps of a release that need no signature and no registry of images."""

import os
import platform
import shutil
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.version import Version

from tools import krew
from tools.release import (
    bills,
    chart,
    contents,
    distributions,
    installation,
    provenance,
    sources,
    validation,
    vulnerabilities,
)
from tools.release.commands import ReleaseError, run
from tools.release.images import collect, products_of
from tools.release.summary import SUMS, Artifact, artifact, differences, sums
from tools.release.versions import Versions, notes, problems, read

STATEMENT_FILE: Final = "provenance.json"
NOTES_FILE: Final = "notes.md"
VEX_FILE: Final = "aad-pod-identity.openvex.json"
SDIST: Final = "aad_pod_identity-*.tar.gz"
"""Pattern of the source distribution's name in the folder of the artifacts."""


@dataclass(frozen=True, slots=True)
class Release:
    """One release that is built from *tree* into *out*, with the repository's address or an empty *url*."""

    tree: Path
    out: Path
    url: str = ""

    @property
    def epoch(self) -> int:
        """The time of all files in the artifacts."""
        return sources.commit_time(self.tree)

    def check(self, tag: str = "") -> Versions:
        """Return the versions of the tree. Raise ReleaseError where they contradict each other or the *tag*, and
        ValueError if a statement about a vulnerability has a fault.
        """
        versions = read(self.tree)
        refuse(problems(versions, tag))
        self._statements()
        return versions

    def build_sources(self) -> list[Path]:
        """Build the source distribution, the chart with its bill, and the notes into *out*. Raise ReleaseError.

        With an address also the plugin for krew.
        """
        versions = self.check()
        source = self._copy("source")
        wanted = contents.sdist_sources(source)
        made = [distributions.build_sdist(source, self.out / "sdist", self.epoch)]
        made[0] = made[0].rename(self.out / made[0].name)
        (self.out / "sdist").rmdir()
        made.append(chart.package(source, self.out, self.epoch))
        bill = bills.of_chart(chart.images(made[-1]), versions.chart)
        made.append(self._write("chart.cdx.json", bill, validation.check_bill))
        if self.url:  # the plugin for krew consists of the address of its archive
            krew.main([f"{self.url}/releases/download/v{versions.program}"], self.out)
            made += [self.out / f"kubectl-podidentity-{versions.program}.tar.gz", self.out / "podidentity.yaml"]
        if versions.newest is not None:
            (self.out / NOTES_FILE).write_text(notes(versions.newest, self.url))
        with tarfile.open(made[0]) as archive:
            names = [member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()]
        refuse(contents.sdist_problems(names, wanted))
        shutil.rmtree(source)
        tool("twine", "check", "--strict", str(made[0]))
        return [*made, self.out / NOTES_FILE]

    def build_wheel(self, sdist: Path) -> Path:
        """Build the wheel of *sdist* for this interpreter into *out*."""
        work = self.out / "wheel"
        made = distributions.build_wheel(sdist, work, self.out, self.epoch)
        shutil.rmtree(work)
        return made

    def build_wheels(self, sdist: Path) -> list[Path]:
        """Build the wheels of *sdist* for manylinux and each Python in *out*, by cibuildwheel, which needs docker."""
        environment = {"SOURCE_DATE_EPOCH": str(self.epoch), "PROJECT_URL": self.url}
        tool("cibuildwheel", f"--output-dir={self.out}", "--platform=linux", str(sdist), cwd=self.tree, **environment)
        return sorted(self.out.glob("*.whl"))

    def check_wheel(self, wheel: Path) -> None:
        """Raise ReleaseError if a file of *wheel* is missing, superfluous or wrong."""
        source = self._copy("checked")
        project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
        with zipfile.ZipFile(wheel) as archive:
            files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
        refuse(contents.wheel_problems(files, source, project["scripts"]))
        shutil.rmtree(source)
        tool("twine", "check", "--strict", str(wheel))
        tool("check_wheel_contents", str(wheel), cwd=self.tree)
        # Exits with 1 if the wheel is not for manylinux, for example because it needs a library that no manylinux has.
        tool("auditwheel", "show", "--json", str(wheel), cwd=self.tree)

    def install(self, wheel: Path, versions: Versions) -> Path:
        """Install *wheel*, run its programs, and write the bill of the distributions. Return the bill's path."""
        home = self.out / "installed"
        python = installation.install(wheel, self.tree / "requirements.lock", home)
        installation.try_programs(python, versions.program)
        bill = bills.of_distributions(python, str(Version(versions.program)))
        shutil.rmtree(home)
        return self._write(f"python-linux_{platform.machine()}.cdx.json", bill, validation.check_bill)

    def seal(self, artifacts: Sequence[Path], builder: str = provenance.LOCAL, base: str = "") -> list[Artifact]:
        """Write OpenVEX, provenance and checksums of *artifacts*, and return all of them with these files.

        Raise ReleaseError if a statement about a vulnerability is not about these artifacts, and ValueError if one has
        a fault.
        """
        artifacts = [*artifacts, *self._write_vex(artifacts)]
        build = provenance.Build(
            commit=sources.commit(self.tree),
            epoch=self.epoch,
            python=platform.python_version(),
            machine=platform.machine(),
            url=self.url,
            builder=builder,
            base=base,
        )
        made = [artifact(path) for path in sorted(artifacts, key=lambda path: path.name)]
        statement = provenance.statement(made, build, self.tree)
        made.append(artifact(self._write(STATEMENT_FILE, statement, validation.check_statement)))
        (self.out / SUMS).write_text(sums(made))
        return [*made, artifact(self.out / SUMS)]

    def _statements(self) -> list[dict[str, object]]:
        return vulnerabilities.read((self.tree / vulnerabilities.FILE).read_text())

    def _write_vex(self, artifacts: Sequence[Path]) -> list[Path]:
        """Write the OpenVEX document, if a statement is about *artifacts*, and return its path."""
        statements, products = self._statements(), products_of(artifacts)
        refuse(vulnerabilities.differences(statements, products))
        document = vulnerabilities.document(statements, products, read(self.tree).program, self.epoch)
        return [] if document is None else [self._write(VEX_FILE, document)]

    def _copy(self, name: str) -> Path:
        return sources.copy(self.tree, self.out / name)

    def _write(self, name: str, document: dict[str, object], check: Callable[[str], None] | None = None) -> Path:
        text = provenance.text_of(document)
        if check is not None:
            check(text)
        path = self.out / name
        path.write_text(text)
        return path


def dry_run(tree: Path, out: Path, *, url: str = "", images: Path | None = None) -> list[Artifact]:
    """Build everything twice into *out*, compare both, and return the artifacts. Raise ReleaseError.

    The second build is in another directory, at another time, with another umask and time zone. *images* is the folder
    in which tools/local-images has built and compared the images.
    """
    first = Release(tree, out / "dist", url)
    second = Release(tree, out / "again" / "in another directory", url)
    made = []
    for release in (first, second):
        release.out.mkdir(parents=True)
        step(f"building into {release.out.relative_to(out)}")
        made.append(release.build_sources())
        made[-1].append(release.build_wheel(made[-1][0]))
        os.umask(0o077)
        os.environ["TZ"] = "Pacific/Auckland"
    os.umask(0o022)
    refuse(differences(*made))
    step("checking the wheel")
    wheel = made[0][-1]
    first.check_wheel(wheel)
    step("installing the wheel and running its programs")
    artifacts = [path for path in made[0] if path.name != NOTES_FILE]
    artifacts.append(first.install(wheel, first.check()))
    base = ""
    if images is not None:
        image_files, base = collect(images, first.out, first.epoch)
        artifacts += image_files
    shutil.rmtree(out / "again")
    return first.seal(artifacts, base=base)


def refuse(faults: Iterable[str]) -> None:
    """Raise ReleaseError with all messages, if there are any."""
    if messages := [*faults]:
        raise ReleaseError("\n".join(messages))


def tool(module: str, *arguments: str, cwd: Path | None = None, **environment: str) -> None:
    """Run a Python program of release.lock. Raise ReleaseError if it fails."""
    run(sys.executable, "-m", module, *arguments, cwd=cwd, environment={**os.environ, **environment})


def step(text: str) -> None:
    """Report the step that begins."""
    sys.stderr.write(f"{text}\n")

"""A copy of the source tree with a separate environment, in which mutants are applied and tests are run.

The environment's files are links to the original's (other packages are not changed); the project's packages and
programs are those of the copy: its `.venv/bin/nmi`, and `python -m nmi` from any directory, import the copy's files.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from tests.nightly.mutants.entries import Mutant, MutantError, tracked
from tests.nightly.mutants.outcomes import Outcome
from tests.support.checkout import ROOT

PACKAGES: Final = ("_native", "mic", "nmi", "podidctl", "podidentity", "podidentity_demo", "podidentity_sandbox")
ENDING_SECONDS: Final = 30
"""The time for pytest to end its tests' programs after the time limit."""
PLUGINS: Final = ("-p", "tests.nightly.mutants.outcomes", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Run:
    """The outcomes of some tests, and the end of pytest's output."""

    outcomes: Sequence[Outcome]
    in_time: bool = True
    output: str = ""


class Tree:
    """One copy. `make` creates it; only its methods may change it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.python = root / ".venv" / "bin" / "python"
        self._stamp = 1_000_000_000
        self._outcomes = root / "build" / "outcomes"

    def make(self) -> None:
        """Copy the current tree, and replace an older copy. Raise MutantError if it is not complete."""
        shutil.rmtree(self.root, ignore_errors=True)
        names = [*tracked(), *(str(library.relative_to(ROOT)) for library in (ROOT / "_native").glob("*.so"))]
        for name in names:
            if (ROOT / name).exists():  # a link stays a link: a change of its target affects both names
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name, follow_symlinks=False)
        self._outcomes.parent.mkdir(exist_ok=True)
        shutil.copytree(ROOT / ".venv", self.root / ".venv", symlinks=True, copy_function=_link)
        for program in (self.root / ".venv" / "bin").iterdir():
            if program.is_file() and not program.is_symlink() and program.read_bytes().startswith(b"#!"):
                self._move(program)
        for finder in self.root.glob(".venv/lib/python3*/site-packages/__editable__*"):
            self._move(finder)
        for compiled in self.root.glob(".venv/lib/python3*/site-packages/__pycache__/__editable__*"):
            compiled.unlink()
        self._check()

    def _move(self, file: Path) -> None:
        """Rewrite the original tree's paths in *file*, as a new file, since the old one is a link to the original."""
        mode, content = file.stat().st_mode, file.read_bytes()
        file.unlink()
        file.write_bytes(content.replace(os.fsencode(f"{ROOT}/"), os.fsencode(f"{self.root}/")))
        file.chmod(mode)

    def _check(self) -> None:
        """Raise MutantError unless programs of the copy import the copy, from any directory."""
        names = ", ".join(PACKAGES)
        code = f"import {names}; print(*(package.__file__ for package in ({names})), sep='\\n')"
        output = subprocess.check_output([self.python, "-c", code], cwd="/", text=True, timeout=60)
        if strangers := [file for file in output.splitlines() if not file.startswith(f"{self.root}/")]:
            raise MutantError(f"the copy imports {', '.join(strangers)}; its tests would not run a mutant there")

    @contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        """Apply *mutant* inside the block. Raise MutantError if the result does not compile."""
        target = self.root / mutant.file
        original, times = target.read_bytes(), target.stat()
        changed = mutant.applied(original.decode()).encode()
        native = target.suffix in {".pyx", ".pxd"}
        kept = {library: library.read_bytes() for library in target.parent.glob("*.so")} if native else {}
        try:
            target.write_bytes(changed)
            # Compiled files are recognised by size and whole seconds: no two mutants may share both.
            self._stamp += 1
            os.utime(target, (self._stamp, self._stamp))
            if native:
                self._compile(target)
            elif target.suffix == ".py":
                self._import(target)
            yield
        finally:
            target.write_bytes(original)
            os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
            for compiled in target.parent.glob(f"__pycache__/{target.stem}.*"):
                compiled.unlink()
            for module, content in kept.items():
                module.unlink(missing_ok=True)  # a process may have the mutated one mapped
                module.write_bytes(content)

    def _import(self, file: Path) -> None:
        """Raise MutantError if a changed module is not valid Python, uses undefined names or fails on import."""
        checks = ["check", "-q", "--isolated", "--select=E9,F63,F7,F82", str(file)]
        self._require("is broken", self.python.with_name("ruff"), *checks)
        module = ".".join(file.relative_to(self.root).with_suffix("").parts).removesuffix(".__init__")
        if module.partition(".")[0] in PACKAGES and file.stem != "__main__":
            self._require("is broken", self.python, "-c", f"import {module}")

    def _compile(self, file: Path) -> None:
        """Compile the changed module, or all of them for a changed .pxd, in place."""
        headers = self.root / ".venv" / "headers" / "usr" / "include"
        variables = {"CPATH": ":".join(map(str, (headers, *headers.glob("python3.*"))))}
        if file.suffix == ".pyx":
            variables["NATIVE_ONLY"] = file.stem
        build = ["setup.py", "-q", "build_ext", "--inplace", "--force"]
        self._require("does not compile", self.python, *build, **variables)

    def _require(self, fault: str, *command: str | Path, **variables: str) -> None:
        """Run *command* in the copy. Raise MutantError if it fails."""
        done = subprocess.run(
            command, cwd=self.root, env=os.environ | variables, capture_output=True, text=True, timeout=600, check=False
        )
        if done.returncode:
            raise MutantError(f"the changed module {fault}: {(done.stdout + done.stderr)[-1500:]}")

    def run(self, tests: Sequence[str], seconds: float) -> Run:
        """Run *tests* in the copy, at most *seconds*; then pytest is interrupted, and all of its programs end.

        A test that takes half of this time fails.
        """
        self._outcomes.unlink(missing_ok=True)
        # With CI, property tests have the same examples each time, and no test is skipped.
        environment = {**os.environ, "CI": "true", "MUTANT_OUTCOMES": str(self._outcomes)}
        environment.pop("PYTHONPATH", None)
        log = self._outcomes.with_name("pytest.log")
        in_time = True
        with log.open("wb") as output:
            process = subprocess.Popen(
                [self.python, "-m", "pytest", "-q", *PLUGINS, f"-otimeout={seconds / 2}", *tests],
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                in_time = False
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(ENDING_SECONDS)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        lines = self._outcomes.read_bytes().splitlines() if self._outcomes.exists() else []
        outcomes = [msgspec.json.decode(line, type=Outcome) for line in lines]
        return Run(outcomes, in_time, log.read_text(errors="replace")[-6000:])


def _link(source: str, target: str) -> None:
    """Make *target* the same file as *source*, or a copy where the file system has no links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)

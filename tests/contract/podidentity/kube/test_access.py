"""Finding the API server, and trusting it. Each failure is one line that states the next action."""

import asyncio
import base64
import importlib.util
import itertools
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web
from aiohttp.test_utils import TestServer

from podidentity.kube import access as module
from podidentity.kube.access import KUBECONFIG_SECONDS, TOKEN_FILE_SECONDS, find, from_kubeconfig, in_cluster
from podidentity.kube.errors import AccessError
from podidentity.kube.kubeconfig import read_kubeconfig
from podidentity_sandbox.certificates import Authority
from tests.support.old_authority import as_from_python_3_13_on, old_server
from tests.support.waiting import until


def kubeconfig(path: Path, user: dict[str, Any], *others: str, **cluster: object) -> str:
    """A kubeconfig with the current context `here`, and the contexts *others*, whose namespace is their name."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443/", **cluster}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [
            {"name": name, "context": {"cluster": "c", "user": "u", "namespace": namespace}}
            for name, namespace in {"here": "mine", **dict(zip(others, others, strict=True))}.items()
        ],
    }
    path.write_text(json.dumps(config))
    return str(path)


async def test_a_kubeconfig_contains_address_and_credentials(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", {"token": "abc"}, **{"tls-server-name": "kubernetes"})
    access = await from_kubeconfig(path)
    assert (access.server, access.namespace, access.server_hostname) == ("https://10.0.0.1:6443", "mine", "kubernetes")
    assert await access.authorization() == "Bearer abc"
    assert access.ssl is not None
    assert access.ssl.verify_mode is ssl.CERT_REQUIRED


def test_the_event_loop_of_nmi_reads_a_kubeconfig_too(tmp_path: Path) -> None:
    access = uvloop.run(from_kubeconfig(kubeconfig(tmp_path / "config", {"token": "t"})))
    assert access.namespace == "mine"


async def test_a_context_is_selected_by_its_name(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", {"token": "abc"}, "there")
    assert [(await find(path, {}, context)).namespace for context in ("", "here", "there")] == ["mine", "mine", "there"]


@pytest.mark.parametrize(
    ("others", "listed"),
    [
        ((), "pass one of here to --context"),
        (tuple(f"{number:02}" for number in range(40)), "06, 07, 08, 09 and 31 more (kubectl config get-contexts) to"),
        (("a" * 10_000,), f"pass one of {'a' * 100}, here to --context"),
    ],
    ids=["one", "many", "long"],
)
async def test_an_unknown_context_is_named_with_some_of_those_that_exist(
    tmp_path: Path, others: tuple[str, ...], listed: str
) -> None:
    path = kubeconfig(tmp_path / "config", {"exec": {"command": "/nowhere"}}, *others)
    with pytest.raises(AccessError) as error:
        await find(path, {}, "x" * 10_000)
    assert str(error.value).startswith(f"the kubeconfig {path} has no context {'x' * 100}: pass one of ")
    assert listed in str(error.value)
    assert len(str(error.value)) < 1000


async def test_a_kubeconfig_without_contexts_has_none_to_select(tmp_path: Path) -> None:
    (tmp_path / "config").write_text('{"apiVersion": "v1", "kind": "Config", "clusters": [], "users": []}')
    with pytest.raises(AccessError, match="has no context there: it has none, so pass another kubeconfig"):
        await find(str(tmp_path / "config"), {}, "there")


async def test_a_context_needs_a_kubeconfig_also_in_a_pod() -> None:
    with pytest.raises(AccessError, match=r"no kubeconfig with the context there: .* or in a pod omit --context"):
        await find("", ENVIRON, "there")


async def test_insecure_skip_tls_verify_and_plain_http_are_respected(tmp_path: Path) -> None:
    access = await from_kubeconfig(kubeconfig(tmp_path / "config", {}, **{"insecure-skip-tls-verify": True}))
    assert access.ssl is not None
    assert access.ssl.verify_mode is ssl.CERT_NONE
    assert await access.authorization() is None
    access = await from_kubeconfig(kubeconfig(tmp_path / "config", {}, server="http://127.0.0.1:8080"))
    assert (access.server, access.ssl) == ("http://127.0.0.1:8080", None)


async def test_a_token_file_is_read_again_after_a_while_and_after_a_401(tmp_path: Path) -> None:
    clock = [0.0]
    token = tmp_path / "token"
    token.write_text("one")
    path = kubeconfig(tmp_path / "config", {"tokenFile": str(token)})
    access = await from_kubeconfig(path, clock=lambda: clock[0])
    token.write_text("two")
    assert await access.authorization() == "Bearer one"
    access.forget()
    assert await access.authorization() == "Bearer two"
    token.write_text("three")
    clock[0] += KUBECONFIG_SECONDS
    assert await access.authorization() == "Bearer three"


async def test_credentials_are_read_again_only_for_the_same_context_and_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "config"
    path = kubeconfig(file, {"token": "one"})
    access = await from_kubeconfig(path, clock=itertools.count(step=KUBECONFIG_SECONDS).__next__)

    def change(**changes: object) -> None:
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    other = {"name": "other", "cluster": {"server": "https://10.0.0.2:6443/"}}
    contexts = [
        {"name": "here", "context": {"cluster": "c", "user": "u"}},
        {"name": "there", "context": {"cluster": "other", "user": "other"}},
    ]
    users = [{"name": "u", "user": {"token": "two"}}, {"name": "other", "user": {"token": "secret"}}]
    change(clusters=[*json.loads(file.read_text())["clusters"], other], contexts=contexts, users=users)
    change(**{"current-context": "there"})
    assert await access.authorization() == "Bearer two"
    assert not caplog.records

    contexts[0]["context"] = {"cluster": "other", "user": "other"}
    change(contexts=contexts)
    assert await access.authorization() == "Bearer two"
    [record] = caplog.records
    assert "another server for its context here than at the first read" in str(vars(record)["error"])


async def test_a_deleted_kubeconfig_keeps_the_last_credentials(tmp_path: Path) -> None:
    for user, header in (({"token": "abc"}, "Bearer abc"), ({}, None)):  # {}: as with a client certificate
        access = await from_kubeconfig(kubeconfig(tmp_path / "config", user))
        (tmp_path / "config").unlink()
        access.forget()
        assert await access.authorization() == header


def unsigned_token(expires: int) -> str:
    parts = ({"alg": "none"}, {"exp": expires})
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts), ""])


def plugin(tmp_path: Path, script: str) -> str:
    """A kubeconfig whose token is made by a program."""
    program = tmp_path / "plugin"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    version = "client.authentication.k8s.io/v1"
    return kubeconfig(tmp_path / "config", {"exec": {"apiVersion": version, "command": str(program)}})


async def test_an_exec_plugin_runs_again_after_a_401(tmp_path: Path) -> None:
    made = f"""echo x >> {tmp_path}/runs
printf '{{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{{"token":"%s"}}}}' \\
  "$(wc -l < {tmp_path}/runs | tr -d ' ')"
"""
    access = await from_kubeconfig(plugin(tmp_path, made))
    assert await access.authorization() == "Bearer 1"
    access.forget()
    assert await access.authorization() == "Bearer 2"


async def test_an_exec_plugin_that_does_not_end_is_not_waited_for_but_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[asyncio.Timeout] = []
    timeout = asyncio.timeout

    def limited(seconds: float) -> asyncio.Timeout:
        made = timeout(seconds)
        limits.extend([made] if seconds == 61.0 else [])
        return made

    monkeypatch.setattr(module, "PROGRAM_SECONDS", 61.0)
    monkeypatch.setattr(asyncio, "timeout", limited)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def written() -> bytes:
        try:
            return os.read(end, 100)
        except BlockingIOError:
            return b""

    try:
        reading = asyncio.create_task(from_kubeconfig(plugin(tmp_path, f"exec >{pipe}; echo started; sleep 600")))
        assert await until(written, "the program starts") == b"started\n"
        limits[0].reschedule(asyncio.get_running_loop().time())
        with pytest.raises(AccessError, match="took longer than 61 s: check the program that it runs"):
            await reading
        os.set_blocking(end, True)
        assert await asyncio.to_thread(os.read, end, 100) == b""  # until no process can write
    finally:
        os.close(end)


async def test_an_exec_plugin_can_read_from_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = tmp_path / "groups"
    path = plugin(tmp_path, f"{sys.executable} -c 'import os; print(os.getpgrp())' >>{groups}; exit 1")
    for terminal in (True, False):
        monkeypatch.setattr(os, "isatty", lambda _, it=terminal: it)
        with pytest.raises(AccessError, match="has failed"):
            await from_kubeconfig(path)
    assert [int(line) == os.getpgrp() for line in groups.read_text().split()] == [True, False]


def test_ctrl_c_ends_the_program_that_reads_a_kubeconfig_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-P", str(module.PROGRAM), plugin(tmp_path, "kill -INT $PPID")]
    done = subprocess.run(command, check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


@pytest.mark.parametrize(
    ("program", "message"), [("/nowhere/python", "cannot start a process"), ("false", r"failed \(exit code 1\)")]
)
async def test_a_failing_reader_process_keeps_the_last_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, message: str
) -> None:
    path = kubeconfig(tmp_path / "config", {"token": "abc"})
    access = await from_kubeconfig(path)
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(AccessError, match=message):
        await from_kubeconfig(path)
    access.forget()
    assert await access.authorization() == "Bearer abc"


async def test_an_inline_certificate_is_used_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Authority("test").server()
    encoded = {
        "client-certificate-data": base64.b64encode(pair.certificate.encode()).decode(),
        "client-key-data": base64.b64encode(pair.key.encode()).decode(),
    }
    path = kubeconfig(tmp_path / "config", encoded)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    loaded: list[str] = []
    load = ssl.SSLContext.load_cert_chain

    def noted(context: ssl.SSLContext, certificate: str, key: str) -> None:
        loaded.extend(Path(file).read_text() for file in (certificate, key))
        load(context, certificate, key)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", noted)
    await from_kubeconfig(path)
    assert loaded == [pair.certificate, pair.key]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_kubeconfig_package_is_not_kept_in_memory(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", {"token": "abc"})
    code = (
        "import asyncio, sys\nfrom podidentity.kube.access import find\n"
        f"access = asyncio.run(find({path!r}, {{}}))\n"
        "print(access.server, sorted({name.split('.')[0] for name in sys.modules} & {'kubernetes', 'yaml'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["https://10.0.0.1:6443", "[]"]


def test_reading_a_kubeconfig_imports_no_client_of_kubernetes(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", {"token": "abc"})
    command = [sys.executable, "-P", "-X", "importtime", str(module.PROGRAM), path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    clients = {name for name in imported if name.startswith(("kubernetes.client", "kubernetes.aio.client"))}
    assert "kubernetes.aio.config.kube_config" in imported
    assert not clients
    assert "aiohttp.client" not in imported


async def test_an_expired_token_of_openid_connect_is_renewed(tmp_path: Path) -> None:
    renewed = unsigned_token(expires=4_000_000_000)

    async def configuration(request: web.Request) -> web.Response:
        return web.json_response({"token_endpoint": str(request.url.with_path("/token"))})

    async def token(request: web.Request) -> web.Response:
        assert (await request.post())["refresh_token"] == "again"
        return web.json_response({"id_token": renewed, "refresh_token": "next"})

    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", configuration)
    app.router.add_post("/token", token)
    async with TestServer(app) as issuer:
        about = {
            "client-id": "id",
            "client-secret": "secret",
            "id-token": unsigned_token(expires=1),
            "refresh-token": "again",
            "idp-issuer-url": str(issuer.make_url("")).rstrip("/"),
        }
        user = {"auth-provider": {"name": "oidc", "config": about}}
        access = await from_kubeconfig(kubeconfig(tmp_path / "config", user))
    assert await access.authorization() == f"Bearer {renewed}"


async def test_the_flag_takes_precedence_over_the_environment(tmp_path: Path) -> None:
    flag = kubeconfig(tmp_path / "flag", {"token": "flag"})
    environ = {"KUBECONFIG": kubeconfig(tmp_path / "environ", {"token": "environ"})}
    assert await (await find(flag, environ)).authorization() == "Bearer flag"
    assert await (await find("", environ)).authorization() == "Bearer environ"


async def test_without_any_access_the_error_names_what_to_provide() -> None:
    with pytest.raises(AccessError, match="pass a kubeconfig with --kubeconfig or KUBECONFIG"):
        await find("", {})


ENVIRON = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "ca.crt").write_text(Path(ssl.get_default_verify_paths().openssl_cafile).read_text())
    (tmp_path / "token").write_text("one\n")
    return tmp_path


def test_a_pods_access_has_the_service_address_and_the_namespace(root: Path) -> None:
    (root / "namespace").write_text("kube-system")
    access = in_cluster(root, ENVIRON)
    assert (access.server, access.namespace) == ("https://10.96.0.1:443", "kube-system")
    assert in_cluster(root, {**ENVIRON, "KUBERNETES_SERVICE_HOST": "fd00::1"}).server == "https://[fd00::1]:443"


@pytest.mark.parametrize(
    ("host", "port"), [("10.96.0.1", "https"), ("10.96.0.1", "70000"), ("a\x1b[2J", "443"), ("[", "1")]
)
def test_a_service_address_to_which_nothing_can_be_sent_is_named(root: Path, host: str, port: str) -> None:
    with pytest.raises(AccessError, match="KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are no address"):
        in_cluster(root, {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port})


async def test_a_pods_token_is_read_again_once_a_minute(root: Path) -> None:
    clock = [0.0]
    access = await asyncio.to_thread(lambda: in_cluster(root, ENVIRON, clock=lambda: clock[0]))
    (root / "token").write_text("two")
    clock[0] = TOKEN_FILE_SECONDS - 1
    assert await access.authorization() == "Bearer one"
    clock[0] = TOKEN_FILE_SECONDS
    assert await access.authorization() == "Bearer two"


def test_a_missing_mount_and_an_empty_token_are_named(root: Path) -> None:
    (root / "token").write_text("\n")
    with pytest.raises(AccessError, match="is empty"):
        in_cluster(root, ENVIRON)
    for missing, message in (("token", "token"), ("ca.crt", "certificate authority")):
        (root / missing).unlink()
        with pytest.raises(AccessError, match=f"{message}.*automountServiceAccountToken"):
            in_cluster(root, ENVIRON)


async def test_repeated_401_responses_do_not_cause_a_kubeconfig_read_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, reads = 1000.0, 0

    async def read_content(*_: str) -> module._KubeconfigContent:
        nonlocal reads
        reads += 1
        return module._KubeconfigContent(server="http://127.0.0.1:1", authorization=f"Bearer {reads}")

    monkeypatch.setattr(module, "_read_kubeconfig", read_content)
    credentials = await from_kubeconfig("somewhere", clock=lambda: now)
    headers = []
    for _ in range(3):
        credentials.forget()
        headers.append(await credentials.authorization())
    assert headers == ["Bearer 2"] * 3
    now += module.KUBECONFIG_AGAIN_SECONDS
    credentials.forget()
    assert await credentials.authorization() == "Bearer 3"


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts as from Python 3.13 on, which refuse certificates without key identifiers by default."""
    monkeypatch.setattr(ssl, "create_default_context", as_from_python_3_13_on(ssl.create_default_context))


def greeted(context: ssl.SSLContext | None, port: int) -> str | None:
    """The TLS version that a connection has, once both sides have agreed."""
    assert context is not None
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
    ):
        return wrapped.version()


@pytest.mark.usefixtures("strict")
def test_a_pod_trusts_its_clusters_authority(tmp_path: Path) -> None:
    with old_server() as (authority, port):
        (tmp_path / "ca.crt").write_text(authority)
        (tmp_path / "token").write_text("t")
        with pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)key identifier"):
            greeted(ssl.create_default_context(cadata=authority), port)
        environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port)}
        assert greeted(in_cluster(tmp_path, environ).ssl, port) == "TLSv1.3"


@pytest.mark.usefixtures("strict")
async def test_a_kubeconfig_trusts_the_authority_that_it_names(tmp_path: Path) -> None:
    with old_server() as (authority, port):
        encoded = base64.b64encode(authority.encode()).decode()
        cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority-data": encoded}
        context = (await from_kubeconfig(kubeconfig(tmp_path / "config", {}, **cluster))).ssl
        with old_server() as (_, stranger), pytest.raises(ssl.SSLCertVerificationError):
            greeted(context, stranger)
        assert greeted(context, port) == "TLSv1.3"


@pytest.mark.usefixtures("strict")
async def test_the_systems_authorities_are_checked_as_strictly_as_python_does(tmp_path: Path) -> None:
    context = (await from_kubeconfig(kubeconfig(tmp_path / "config", {}))).ssl
    assert context is not None
    assert context.verify_flags & ssl.VERIFY_X509_STRICT


def test_the_error_names_the_package_to_install_and_why_no_image_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    problem = read_kubeconfig("/some/config")["problem"]
    assert problem.startswith("cannot read the kubeconfig /some/config without the package kubernetes")
    assert "pipx install --force '.[kubeconfig,mic,nmi]' in a checkout" in problem
    assert "no image has this package" in problem

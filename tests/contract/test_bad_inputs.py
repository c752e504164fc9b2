"""Unusable command lines, files and variables: exit code 1 or 2, and one line on stderr that names the fault.

Each row is one input. The programs run in this process; none of them gets as far as serving or to an API server.
"""

import base64
import json
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

import mic.cli
import nmi.cli
import podidctl.cli
from mic.preview.dry_run import Snapshot
from podidentity.report import ERROR_MAX

LONG: Final = "x" * 10_240
ESCAPES: Final = "\x1b[31m\x07\u202e"
ADVICE: Final = "podidctl: . Try --help.\n"
"""The longest text around a message of at most ERROR_MAX characters."""
PROGRAMS: Final[Mapping[str, Callable[[Sequence[str]], int]]] = {
    "nmi": nmi.cli.main,
    "mic": mic.cli.main,
    "podidctl": podidctl.cli.main,
}


class Row(NamedTuple):
    """One input."""

    words: Sequence[str]
    text: str
    """A part of the line that names the fault."""
    code: int = 2
    files: Mapping[str, object] = {}
    """Content by name: bytes, text, or a value for JSON; None is a folder."""
    environ: Mapping[str, str] = {}


def command(line: str, text: str, *more: str, code: int = 2, **environ: str) -> Row:
    """A row without files: the words of *line*, and words *more* that have spaces or control characters."""
    return Row([*line.split(), *more], text, code, environ=environ)


def kubeconfig(**changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }
    return config | changes


def cluster(**fields: object) -> dict[str, Any]:
    return kubeconfig(clusters=[{"name": "c", "cluster": {"server": "https://127.0.0.1:1", **fields}}])


def user(**fields: object) -> dict[str, Any]:
    return kubeconfig(users=[{"name": "u", "user": fields}])


def plugin(program: str, **changes: object) -> dict[str, Any]:
    """A kubeconfig whose credentials are printed by a shell command."""
    run = {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", program]}
    return user(exec=run | changes)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def with_kubeconfig(content: object, text: str) -> Row:
    return Row(["podidctl", "doctor", "--kubeconfig=config"], text, 1, {"config": content})


def with_cloudconfig(content: object, text: str) -> Row:
    return Row(
        ["podidctl", "plan", "--kubeconfig=config", "--cloudconfig=azure.json"],
        text,
        1,
        {"config": kubeconfig(), "azure.json": content},
    )


PLAN: Final = ("mic", "--plan", "--kubeconfig=config", "--cloudconfig=azure.json")
MANAGED: Final[Mapping[str, object]] = {"useManagedIdentityExtension": True, "cloud": "AzureStackCloud"}


def with_ca_bundle(content: object, text: str) -> Row:
    files = {"config": kubeconfig(), "azure.json": {"useManagedIdentityExtension": True}, "ca.pem": content}
    return Row([*PLAN, "--ca-bundle=ca.pem"], text, 1, files)


def with_policy(content: object, text: str) -> Row:
    return Row(
        ["podidctl", "access", "--policy=policy.yaml", "--review=missing.json"], text, 1, {"policy.yaml": content}
    )


def with_review(content: object, text: str) -> Row:
    return Row(["podidctl", "access", "--review=review.json"], text, 1, {"review.json": content})


def with_manifest(content: object, text: str) -> Row:
    return Row(["podidctl", "migrate", "from-reference", "-f", "file.yaml"], text, 1, {"file.yaml": content})


def with_values(content: object, text: str) -> Row:
    return Row(["podidctl", "migrate", "from-reference", "--values=values.yaml"], text, 1, {"values.yaml": content})


NMI = "nmi --node=n0"
CREDENTIAL = '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"t"}}'

NAMESPACES: Final = "is not a pod name; write NAMESPACE/NAME, or NAME with -n NAMESPACE"
COMMAND_LINES: Final = [
    command("podidctl preflight -n", "'Foo Bar' is not a namespace name", "Foo Bar"),
    command("podidctl preflight -n", "'' is not a namespace name", ""),
    command("podidctl preflight --principal me", "--principal and --cloudconfig are for --roles: add it"),
    command("podidctl preflight --roles --principal me", "--principal 'me' is no object id"),
    command("podidctl explain pod web -o xml", "'xml' is not one of 'table', 'json', 'yaml'"),
    command("podidctl explain pod", "'Bad Name' is not a pod name; write NAMESPACE/NAME", "Bad Name"),
    command("podidctl explain pod", "pass the NAME of a pod, or -n NAMESPACE, -A or -l SELECTOR for several pods"),
    command("podidctl explain pod web -A", "a NAME selects one pod"),
    command("podidctl explain pod web --watch -o json", "--watch prints changes for a terminal"),
    command("podidctl explain pod -A --roles", "pass the NAME of the pod"),
    command("podidctl explain pod -n default -A", "-n NAMESPACE and -A exclude each other"),
    command("podidctl explain pod -n ../x", "'../x' is no name; see kubectl get namespaces"),
    command("podidctl explain node a/b", "'a/b' is no name; see kubectl get nodes"),
    command("podidctl explain identity A", "'A' is not a valid identity name; write NAMESPACE/NAME"),
    command("podidctl explain deployment", "Missing argument"),
    command("podidctl explain deployment", "the NAME of the deployment is empty: pass it", ""),
    command("podidctl explain identity -n default", "the NAME of the identity is empty: pass it", ""),
    command("podidctl explain node n0 -A", "No such option: -A"),
    command("podidctl explain binding web -l app=web", "No such option: -l"),
    command("podidctl explain pod", "is not a pod name", "web\x1b[31m"),
    command("podidctl explain pod", "is not a pod name", "web\x00"),
    command("podidctl explain pod", NAMESPACES, LONG + "\n"),
    command("podidctl explain pod", "pass the NAME of a pod", ""),
    command("podidctl explain pod default/web -n other", "'default/web' and -n other name two namespaces"),
    command("podidctl explain pod web -n", "is not a namespace name", "a b"),
    command("podidctl explain pod web --nmi-flags=--operation-mode=imaginary", "--nmi-flags: "),
    command("podidctl explain pod web", "--nmi-flags: ", f"--nmi-flags=--{ESCAPES}"),
    command("podidctl explain pod web", "--nmi-flags: ", "--nmi-flags='"),
    command("podidctl explain pod web two", "unexpected extra argument"),
    command("podidctl explain no-such-kind web", "No such command"),
    command("podidctl doctor --no-such-flag", "No such option: --no-such-flag"),
    command("podidctl doctor", "No such option", f"--{LONG}"),
    command("podidctl doctor", "No such option", f"--{ESCAPES}"),
    command("podidctl doctor --imds", "--imds sends a request from this machine"),
    command("podidctl doctor --fail-on=ok", "'ok' is not one of"),
    command("podidctl doctor -o", "requires an argument"),
    command("podidctl doctor -o", "'table', 'json', 'yaml'", LONG),
    command("podidctl doctor -o", "is not one of", ESCAPES),
    command("podidctl no-such-command", "No such command 'no-such-command'"),
    command("podidctl", "No such command", LONG),
    command("podidctl", "No such command", f"{ESCAPES}\n\x00"),
    command("podidctl token", "Missing argument"),
    command("podidctl token a/b/c", "is not a pod name"),
    command("podidctl token web -o wide", "'wide' is not one of"),
    command("podidctl access pod a/b/c", "is not a pod name; write NAMESPACE/NAME, or NAME with -n NAMESPACE"),
    command("podidctl access cat tom", "'cat' is not one of "),
    command("podidctl access", "is not one of identity, pod, node, namespace", LONG, "x"),
    command("podidctl access node", "is not the name of a node", ESCAPES),
    command("podidctl access node", "is not the name of a node"),
    command("podidctl access node n0 -n default", "-n is the namespace of a pod or an identity"),
    command("podidctl access -o pdf", "'pdf' is not one of"),
    command("podidctl access --policy a --diff b", "--policy and --diff exclude each other"),
    command("podidctl access --policy a node n0", "a policy tests the whole cluster"),
    command("podidctl access --policy a -o json", "a policy tests the whole cluster"),
    command("podidctl access --diff a -o dot", "--diff has no output dot"),
    command("podidctl access node n0 --review a", "a stored review cannot be restricted"),
    command("podidctl verify --parallel=0", "'--parallel'"),
    command("podidctl verify --timeout=1e9", "'--timeout'"),
    command("podidctl verify --node", "is not a node name", ESCAPES),
    command("podidctl verify -n", "see kubectl get namespaces", LONG + "/"),
    command("podidctl top --interval=0", "'--interval'"),
    command("podidctl top --interval=nan", "--interval"),
    command("podidctl plan --allowed-resource-groups=,", "names no resource group"),
    command("podidctl plan --arm-api-version", "--arm-api-version is", ESCAPES),
    command("podidctl plan --immutable-user-msis", "Option '--immutable-user-msis' requires an argument"),
    command("podidctl migrate apply --timeout=never", "'--timeout'"),
    command("podidctl migrate apply --exchange=other", "'other' is not one of"),
    command(
        "podidctl migrate plan --kubeconfig=none --cluster", "is not the resource id of an AKS cluster", LONG, code=1
    ),
    command("podidctl migrate plan --kubeconfig=none --grant-to", "is not an object id", ESCAPES, code=1),
    command("podidctl migrate from-reference --in-place", "--in-place requires -f"),
    command("podidctl migrate from-reference --in-place -f -", "--in-place requires -f"),
    command("podidctl sandbox up --nodes=0", "'--nodes'"),
    command("podidctl sandbox up --kubeconfig=none", "'none' does not exist"),
    command("podidctl sandbox up --loopback --identity", "'Bad Name' is not NAME", "Bad Name"),
    *(
        Row(
            ["podidctl", "sandbox", "up", "--kubeconfig=config", f"--chart-values={path}"],
            "--chart-values",
            2,
            {"config": "{}"},
        )
        for path in ("missing/values.yaml", "config/values.yaml", ".")
    ),
    command("podidctl sandbox demo --identity-bindings", "--identity-bindings needs --federated"),
    command("podidctl sandbox fault --sandbox=none", "is not SERVICE=VALUE", ESCAPES, code=1),
    command("podidctl sandbox fault --sandbox=none imds=500", "cannot reach the sandbox at none", code=1),
    command("podidctl sandbox exec", "is not a pod name", ESCAPES, "--", "id"),
    command(
        "podidctl sandbox exec --kubeconfig=none/config web -- id",
        "cannot reach the sandbox at none: it has ended or is not ready; start one with podidctl sandbox up",
        code=1,
        PODIDENTITY_SANDBOX="none",
    ),
]
DAEMONS: Final = [
    command("nmi", "nmi: --node is missing: give the name of the node"),
    command("nmi --nod=a", "nmi: unknown flag --nod; did you mean --node? (see nmi --help)\n"),
    command(f"{NMI} --max-connection-byte=1", "did you mean --max-connections-per-pod?"),
    command(f"{NMI} --nmi-port=70000", "nmi: --nmi-port is 70000; ports are 1 to 65535\n"),
    command(f"{NMI} --nmi-port=http", "is not a whole number"),
    command(f"{NMI} --nmi-port", "needs a value"),
    command(f"{NMI} extra", "unexpected argument 'extra'"),
    command("nmi", "unexpected argument", ESCAPES),
    command("nmi", "unknown flag", f"--{LONG}"),
    command("nmi", "unknown flag", f"--{ESCAPES}=1"),
    command("nmi", "not a valid node name", f"--node={LONG}"),
    command("nmi", "not a valid node name", f"--node={ESCAPES}"),
    command("nmi", "not a valid node name", "--node=a\x00"),
    command("nmi --node=$(NODE_NAME)", "not a valid node name"),
    command(f"{NMI} --forceNamespaced=yes", "is neither true nor false"),
    command(f"{NMI} --max-hold=10", "lacks a unit; write 10s for seconds"),
    command(f"{NMI} --max-hold=1000000h9999999999h", "is longer than a duration can be"),
    command(f"{NMI} --max-hold={'9' * 4000}h", "is longer than a duration can be"),
    command(f"{NMI} --nmi-port={'9' * 5000}", "is not a whole number"),
    command(f"{NMI} --operation-mode=other", "is none of standard, managed"),
    command(f"{NMI} --host-token-types=zero", "is not a whole number"),
    command(NMI, "must be printable ASCII", f"--custom-user-agent={ESCAPES}"),
    command(NMI, "give the whole path", f"--handover-socket={LONG}"),
    command(f"{NMI} --redirect=ebpf", "is none of auto"),
    command(NMI, "FORCENAMESPACED", FORCENAMESPACED="maybe"),
    command(NMI, "FORCENAMESPACED", FORCENAMESPACED=LONG),
    command(NMI, "HTTPS_PROXY in NMI's environment is not a proxy address", HTTPS_PROXY=ESCAPES),
    command("mic --clientQps=nan", "--clientQps is nan", MIC_POD_NAMESPACE="a"),
    command("mic", "must be a Kubernetes name", f"--leader-election-name={ESCAPES}", MIC_POD_NAMESPACE="a"),
    command("mic", "must be a Kubernetes name", f"--config-map-name={LONG}", MIC_POD_NAMESPACE="a"),
    command("mic --plan --plan-output=yaml", "is none of text, json"),
    command("mic", "FORCENAMESPACED", MIC_POD_NAMESPACE="a", FORCENAMESPACED=ESCAPES),
]
NO_SERVER: Final = "has no server for its current context"
NO_PROXY: Final = "has a proxy-url that cannot be used: correct it to http://HOST:PORT"
KUBECONFIGS: Final = [
    Row(["podidctl", "doctor", "--kubeconfig=none"], "does not exist", 1),
    Row(["podidctl", "doctor", f"--kubeconfig={LONG}"], "correct it, or pass another one", 1),
    Row(["podidctl", "doctor", f"--kubeconfig=a{ESCAPES}"], "does not exist", 1),
    Row(["podidctl", "doctor", "--kubeconfig=a\x00b"], "embedded null byte", 1),
    Row(["podidctl", "doctor", "--kubeconfig=a\udcff"], "does not exist", 1),
    Row(["podidctl", "doctor"], "does not exist", 1, environ={"KUBECONFIG": "none:other"}),
    Row(["podidctl", "doctor"], "pass a kubeconfig", 1),
    Row(["mic", "--plan", "--kubeconfig=none"], "does not exist", 1),
    Row(["mic", "--plan", f"--kubeconfig={ESCAPES}"], "the kubeconfig ?[31m?? does not exist", 1),
    Row(["mic", "--plan", f"--kubeconfig={LONG}"], "correct it, or pass another one", 1),
    Row(["podidctl", "doctor", "--kubeconfig=."], "Is a directory", 1),
    with_kubeconfig("", "is it YAML"),
    with_kubeconfig(user(token="t\ud800x"), "characters that are no text"),
    with_kubeconfig("{", "is it YAML"),
    with_kubeconfig("a: b: c", "is it YAML"),
    with_kubeconfig("[]", "is it YAML"),
    with_kubeconfig("just text", "is it YAML"),
    with_kubeconfig({}, "Expected key current-context"),
    with_kubeconfig(b"\x00\x01\x02\xff\xfe", "is it YAML"),
    with_kubeconfig(bytes(range(256)) * 40, "is it YAML"),
    with_kubeconfig("{" * 20_000, "is it YAML"),
    with_kubeconfig("a: &a [*a]", "Expected key current-context"),
    with_kubeconfig(kubeconfig(**{"current-context": "other"}), "with name other in config/contexts list"),
    with_kubeconfig(kubeconfig(**{"current-context": ESCAPES}), "with name ?[31m?? in config/contexts list"),
    with_kubeconfig(
        kubeconfig(contexts=[{"name": "here", "context": {"cluster": "c", "user": "gone"}}]), "the user of its context"
    ),
    with_kubeconfig(kubeconfig(contexts=[{"name": "here", "context": {"cluster": "gone", "user": "u"}}]), "gone"),
    with_kubeconfig(kubeconfig(contexts="here"), "cannot use the kubeconfig config"),
    with_kubeconfig(kubeconfig(users={"u": {}}), "cannot use the kubeconfig config"),
    with_kubeconfig(kubeconfig(clusters=[{"name": "c", "cluster": {}}]), NO_SERVER),
    with_kubeconfig(cluster(server="ftp://127.0.0.1"), NO_SERVER),
    with_kubeconfig(cluster(server=5), "cannot read the kubeconfig config"),
    with_kubeconfig(cluster(server="https://"), NO_SERVER),
    with_kubeconfig(cluster(server="https://127.0.0.1:99999"), NO_SERVER),
    with_kubeconfig(cluster(server="https://127.0.0.1:port"), NO_SERVER),
    with_kubeconfig(cluster(server="https://[::1"), NO_SERVER),
    with_kubeconfig(cluster(server=f"https://127.0.0.1:1/{ESCAPES}"), NO_SERVER),
    with_kubeconfig(cluster(server="https://127.0.0.1 :1"), "127.0.0.1 :1"),
    with_kubeconfig(cluster(server=f"https://{'a' * 64}.localhost:1"), NO_SERVER),
    with_kubeconfig(cluster(server="https://127.0.0.1:1"), "cannot reach https://127.0.0.1:1: "),
    with_kubeconfig(cluster(**{"certificate-authority": "none.pem"}), "none.pem"),
    with_kubeconfig(
        cluster(**{"certificate-authority-data": encoded(b"not a certificate")}), "cannot use the kubeconfig"
    ),
    with_kubeconfig(cluster(**{"certificate-authority-data": "%%%"}), "cannot use the kubeconfig"),
    with_kubeconfig(cluster(server="https://me:secret@127.0.0.1:1"), NO_SERVER),
    with_kubeconfig(cluster(**{"proxy-url": "nonsense"}), NO_PROXY),
    with_kubeconfig(cluster(**{"proxy-url": "socks5://me:secret@127.0.0.1:1"}), NO_PROXY),
    with_kubeconfig(cluster(**{"proxy-url": "http://me:secret@127.0.0.1:port"}), NO_PROXY),
    with_kubeconfig(cluster(**{"proxy-url": "http://me:secret@127.0.0.1:1"}), "cannot reach https://127.0.0.1:1: "),
    with_kubeconfig(user(token=f"a{ESCAPES}"), "has a token that no HTTP header can contain"),
    with_kubeconfig(user(token="a\r\nX-Header: b"), "has a token that no HTTP header can contain"),
    with_kubeconfig(user(tokenFile="none"), "No such file or directory"),
    with_kubeconfig(user(**{"client-certificate": "none", "client-key": "none"}), "none"),
    with_kubeconfig(
        user(**{"client-certificate-data": encoded(b"x"), "client-key-data": encoded(b"y")}),
        "cannot use the kubeconfig",
    ),
    with_kubeconfig(
        user(exec={"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-plugin"}), "no-such-plugin"
    ),
    with_kubeconfig(user(exec={}), "missing key 'command'"),
    with_kubeconfig(plugin("echo not signed in >&2; exit 3"), "not signed in"),
    with_kubeconfig(plugin("printf 'no \\033[31m' >&2; exit 3"), "no "),
    with_kubeconfig(plugin("echo rubbish"), "failed to decode process output"),
    with_kubeconfig(plugin("printf '\\377\\376'"), "has failed"),
    with_kubeconfig(plugin("true"), "failed to decode process output"),
    with_kubeconfig(plugin("echo '{}'"), "missing key 'apiVersion'"),
    with_kubeconfig(plugin(f"echo '{CREDENTIAL}'", apiVersion="client.authentication.k8s.io/v9"), "does not match"),
    with_kubeconfig(
        plugin("head -c 20480 /dev/zero | tr '\\0' x >&2; exit 1"), "correct it, or pass another kubeconfig"
    ),
    with_kubeconfig(plugin(f"printf '%s' '{CREDENTIAL}' | sed 's/\"t\"/\"t\\\\u001b\"/'"), "no HTTP header"),
]
FILES: Final = [
    Row(["podidctl", "plan", "--kubeconfig=config", "--cloudconfig=none"], "cannot read", 1, {"config": kubeconfig()}),
    with_cloudconfig(None, "Is a directory"),
    with_cloudconfig("", "is not JSON"),
    with_cloudconfig("{", "is not JSON"),
    with_cloudconfig(b"\xff\xfe\x00", "is not JSON"),
    with_cloudconfig("[" * 100_000, "is not JSON"),
    with_cloudconfig([], "must hold one JSON object"),
    with_cloudconfig({}, "lacks tenantId, aadClientId, aadClientSecret"),
    with_cloudconfig({"tenantId": "t", "aadClientId": "c", "aadClientSecret": ""}, "lacks aadClientSecret"),
    with_cloudconfig('{"cloud": "a", "cloud": "b"}', "is there twice"),
    with_cloudconfig({"cloud": f"x{ESCAPES}", "useManagedIdentityExtension": True}, "cloud"),
    with_cloudconfig({"cloud": LONG, "useManagedIdentityExtension": True}, "cloud"),
    with_cloudconfig({"useManagedIdentityExtension": True, "userAssignedIdentityID": "/a/b"}, "must be a client id"),
    with_ca_bundle(None, "Is a directory"),
    with_ca_bundle("", "ca.pem"),
    with_ca_bundle(bytes(range(256)), "ca.pem"),
    with_ca_bundle("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "ca.pem"),
    Row([*PLAN, "--ca-bundle=none"], "none", 1, {"config": kubeconfig(), "azure.json": {"aadClientId": "msi"}}),
    Row(PLAN, "none", 1, {"config": kubeconfig(), "azure.json": MANAGED}, {"AZURE_ENVIRONMENT_FILEPATH": "none"}),
    Row(["podidctl", "access", "--policy=none", "--review=none"], "cannot read none", 1),
    Row(["podidctl", "access", "--policy=a\x00b", "--review=none"], "cannot read", 1),
    Row(["podidctl", "access", "--review=none"], "cannot read none", 1),
    Row(["podidctl", "access", "--diff=none"], "cannot read none", 1),
    with_policy(None, "Is a directory"),
    with_policy(b"\x00\xff", "is not a policy"),
    with_policy({"rules": [{"rule": f"no{ESCAPES}", "name": ESCAPES}]}, "is not a policy"),
    with_policy({"version": LONG}, "is not a policy"),
    with_review("", "it is not an access review"),
    with_review("{}", "it has schema version 0"),
    with_review("[" * 100_000, "it is not an access review"),
    with_review({"schemaVersion": 999}, "it has schema version 999"),
    with_review({"schemaVersion": ESCAPES}, "it is not an access review"),
    with_review(b"\xff\x00", "it is not an access review"),
    Row(["podidctl", "bundle", ""], ". cannot be written (File exists): choose another FILE", 1),
    Row(["podidctl", "bundle", "a"], "a cannot be written (File exists): choose another FILE", 1, {"a": None}),
    Row(["podidctl", "bundle", "a\x00b"], "Invalid value for 'file': embedded null byte"),
    Row(["podidctl", "bundle", "none/a"], "none/a cannot be written (No such file or directory)", 1),
    Row(["podidctl", "migrate", "from-reference", "-f", "none.yaml"], "none.yaml cannot be read (No such file", 1),
    Row(["podidctl", "migrate", "from-reference", "-f", "a\x00.yaml"], "embedded null byte"),
    Row(["podidctl", "migrate", "from-reference", "-f", f"{LONG}.yaml"], "cannot be read (File name too long)", 1),
    with_manifest(None, "contains no file that ends in .json, .yaml, .yml"),
    with_manifest("", "file.yaml holds no Kubernetes objects: pass manifests or directories of them\n"),
    with_manifest("- a\n", "file.yaml holds no Kubernetes objects"),
    with_manifest("{{ if x }}\nkind: y\n", "file.yaml: line 2: "),
    with_manifest("{", "file.yaml: line 1: "),
    with_manifest(b"\xff\xfe\x00", "not UTF-8"),
    with_manifest("a: \x07", "special characters are not allowed"),
    with_manifest("kind: [" + "[" * 20_000, "recursion"),
    with_manifest("kind: &a [*a, *a]\n---\n{", "file.yaml: line 3: "),
    with_values(None, "Is a directory"),
    with_values("{", "cannot be read as YAML"),
    with_values(b"\xff", "cannot be read as YAML"),
    with_values("[]", "contains no values"),
    with_values("a: \x1b[31m", "cannot be read as YAML"),
    with_values("{" * 20_000, "is nested too deep for helm's values: pass the file that contains them\n"),
    Row(["podidctl", "migrate", "from-reference", "--values=none"], "none", 1),
    Row(
        ["podidctl", "migrate", "plan"],
        "is not JSON",
        1,
        {"cloud.json": "{"},
        {"AZURE_ENVIRONMENT_FILEPATH": "cloud.json"},
    ),
    Row(["podidctl", "migrate", "plan"], "none", 1, environ={"AZURE_ENVIRONMENT_FILEPATH": "none"}),
]
ROWS: Final = [*COMMAND_LINES, *DAEMONS, *KUBECONFIGS, *FILES]


def returned(value: object) -> Callable[..., Coroutine[Any, Any, object]]:
    async def answer(*_: object) -> object:
        return value

    return answer


def served(*_: object) -> None:
    raise AssertionError("the program accepts this input")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and home, and an environment with neither a cluster nor a proxy."""
    for name in os.environ:
        if name not in {"PATH", "TMPDIR", "LANG", "PYTHONPATH"} and not name.startswith("PYTEST"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name in ("_serve", "_cleanup", "_boot_guard"):
        monkeypatch.setattr(nmi.cli, name, served)
    monkeypatch.setattr("mic.app.run", served)
    monkeypatch.setattr("mic.preview.survey.is_upgraded", returned(True))
    monkeypatch.setattr("mic.preview.survey.read_cluster", returned(Snapshot()))
    return tmp_path


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.words[0]}-{row.text[:30]}")
def test_one_line_names_the_fault(
    row: Row, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, content in row.files.items():
        match content:
            case None:
                (here / name).mkdir()
            case bytes():
                (here / name).write_bytes(content)
            case str():
                (here / name).write_text(content)
            case _:
                (here / name).write_text(json.dumps(content))
    for name, value in row.environ.items():
        monkeypatch.setenv(name, value)
    program, *words = row.words
    code = PROGRAMS[program](words)
    out, err = capfd.readouterr()
    assert (code, out) == (row.code, ""), err
    assert err.startswith(f"{program}: ")
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    assert len(err) <= ERROR_MAX + len(ADVICE)
    assert row.text in err
    assert "Value error" not in err
    assert "secret@" not in err


def test_the_table_has_enough_inputs_and_none_twice() -> None:
    assert len({repr(row) for row in ROWS}) == len(ROWS) >= 105

"""What each setting of NMI may be, and which settings cannot be combined."""

import ipaddress
import re
from itertools import combinations
from typing import Final

from nmi.choices import BootGuardAction, OperationMode, RedirectMode, RedirectTarget
from nmi.setting_table import SettingTable
from podidentity.azure.clouds import parse_endpoint
from podidentity.azure.federation import DIRECT_AUDIENCE
from podidentity.daemon_settings import user_agent_demand
from podidentity.flags import UsageError, quoted
from podidentity.settings import PORT

_NODE_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
"""A DNS subdomain, as the API server requires. A "$(NODE_NAME)" without such a variable does not match."""
_PROXY: Final = re.compile(r"(?:https?://)?(?:[^\s/@]+@)?(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?")


def check(settings: SettingTable) -> None:
    """Raise UsageError with one line that states the fix, if the settings cannot be used."""
    if settings.version:
        return  # it needs no other setting
    _check_address("nmi-listen-address", settings.listen_address)
    _check_address("metadata-ip", settings.metadata_ip)
    for setting, (least, greatest), value in settings.out_of_range():
        if setting.range == PORT:
            raise UsageError(f"--{setting.flag} is {value}; ports are 1 to 65535")
        raise UsageError(f"--{setting.flag} is {value:.12g}; it may be {least:g} to {greatest:.12g}")
    _check_together(settings)
    _check_texts(settings)


def _check_address(flag: str, text: str) -> None:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        raise UsageError(
            f"--{flag} is {quoted(text)}; it must be an IPv4 address (IMDS, and with it the redirect, is IPv4 only)"
        ) from None


def _serves_no_node(settings: SettingTable) -> bool:
    return settings.cleanup or settings.boot_guard is not BootGuardAction.NONE


def _check_together(settings: SettingTable) -> None:
    _demand(
        _serves_no_node(settings) or settings.node_name != "",
        "--node is missing: give the name of the node NMI runs on, in a pod --node=$(NODE_NAME) with NODE_NAME "
        "from spec.nodeName",
    )
    _demand(
        settings.operation_mode is not OperationMode.MANAGED or settings.force_namespaced,
        "--operation-mode=managed needs --forceNamespaced: without MIC nothing else separates namespaces",
    )
    ports = {
        "nmi-port": settings.listen_port,
        "http-probe-port": settings.probe_port,
        "prometheus-port": settings.metrics_port,
    }
    for (flag, port), (other_flag, other_port) in combinations(ports.items(), 2):
        _demand(port != other_port, f"--{flag} and --{other_flag} are both {port}; give each its own")
    _demand(
        not settings.redirect.changes_rules or settings.metadata_ip != settings.listen_address,
        f"--metadata-ip and --nmi-listen-address are both {settings.metadata_ip}: the redirect would target "
        f"itself; use --redirect=none where pods connect to NMI directly",
    )
    _demand(
        not settings.fail_closed or settings.redirect.changes_rules,
        f"--fail-closed needs a redirect by rules, such as --redirect=auto: it is a rule, and "
        f"--redirect={settings.redirect} changes no rule",
    )
    _demand(
        settings.redirect_target is not RedirectTarget.NODE
        or (settings.redirect is not RedirectMode.NONE and settings.listen_address.startswith("127.")),
        "--redirect-target=node needs a redirect and a listener on loopback, since NMI opens a second one on the "
        "node's address; remove --redirect=none and --nmi-listen-address, or use --redirect-target=loopback",
    )
    _demand(
        not settings.require_redirected or settings.redirect is not RedirectMode.CILIUM,
        "--require-redirected would refuse every request with --redirect=cilium: Cilium's redirect leaves no "
        "original destination in the kernel; remove one of the two flags",
    )
    _demand(
        settings.systemd_directory.startswith("/"),
        f"--systemd-directory is {quoted(settings.systemd_directory)}; give the whole path, as /etc/systemd/system",
    )
    # The kernel allows 107 bytes, and a new socket has a temporary name in the same directory first.
    for flag, path in (("handover-socket", settings.handover_socket), ("start-signal", settings.start_signal)):
        _demand(
            path == "" or (path.startswith("/") and len(path) <= 80),
            f"--{flag} is {quoted(path)}; give the whole path, of at most 80 characters",
        )


def _check_texts(settings: SettingTable) -> None:
    _demand(
        _serves_no_node(settings)
        or settings.node_name == ""
        or (len(settings.node_name) <= 253 and _NODE_NAME.fullmatch(settings.node_name) is not None),
        f"--node is {quoted(settings.node_name)}, not a valid node name; in a pod write --node=$(NODE_NAME) and set "
        f"NODE_NAME in its env from spec.nodeName",
    )
    _demand(settings.log_to_stderr, "--logtostderr=false is not supported: logs go to stderr only; remove the flag")
    unknown = settings.host_token_types - {0, 1, 2}
    _demand(
        not unknown,
        f"--host-token-types has {', '.join(map(str, sorted(unknown)))}; it may hold 0, 1 and 2 only",
    )
    # NMI compares these prefixes with paths without disguises (`nmi.server.target`), so they must be plain.
    for path in settings.allowed_metadata_paths:
        plain = path.startswith("/") and not any(part in path for part in ("//", "\\", "%", ";", "?", "#", "/."))
        _demand(
            plain and path.isascii() and path.isprintable(),
            f"--allow-metadata-path has {quoted(path)}; write a plain path such as /metadata/versions",
        )
        folded = path.lower().rstrip("/")
        _demand(
            not _overlaps(folded, "/metadata/identity") and not _overlaps(folded, "/host"),
            f"--allow-metadata-path has {quoted(path)}; that would forward /metadata/identity, which holds the "
            f"node's own tokens",
        )
    for endpoint in settings.allowed_ad_endpoints:
        _demand(
            parse_endpoint(endpoint) is not None,
            f"--allowed-ad-endpoints has {quoted(endpoint)}; write it as https://host/",
        )
    audience = settings.federated_audience
    _demand(
        0 < len(audience) <= 253 and audience.isascii() and audience.isprintable() and " " not in audience,
        f"--federated-audience is {quoted(audience)}; write it as the federated credentials in Azure have it, like "
        f"{DIRECT_AUDIENCE}",
    )
    _demand(
        settings.https_proxy == "" or _PROXY.fullmatch(settings.https_proxy) is not None,
        # Without its value, which may contain a password.
        "HTTPS_PROXY in NMI's environment is not a proxy address; write it as http://host:port",
    )
    _demand(*user_agent_demand(settings.custom_user_agent))


def _demand(holds: bool, sentence: str) -> None:
    if not holds:
        raise UsageError(sentence)


def _overlaps(prefix: str, reserved: str) -> bool:
    """Return whether one of the two prefixes contains the other."""
    return reserved.startswith(prefix) or prefix.startswith(reserved)

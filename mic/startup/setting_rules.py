"""What each setting of MIC may be, and which settings cannot be combined."""

import re
from collections.abc import Iterator
from typing import Final

from mic.startup.setting_table import SettingTable
from podidentity.azure.resource_ids import is_group_reference
from podidentity.daemon_settings import user_agent_demand
from podidentity.flags import UsageError, go_duration, quoted

_DNS: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")

_NAME: Final = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_QUALIFIED: Final = re.compile(rf"([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_NAME}")
_SELECTOR: Final = re.compile(rf"({_QUALIFIED.pattern})=({_NAME})?(,({_QUALIFIED.pattern})=({_NAME})?)*")


def check(settings: SettingTable) -> None:
    """Raise UsageError with one line that states all problems, if the settings cannot be used."""
    if settings.version:
        return  # it needs no other setting
    problems = [sentence for holds, sentence in _demands(settings) if not holds]
    if problems:
        raise UsageError("; ".join(problems))


def _demands(settings: SettingTable) -> Iterator[tuple[bool, str]]:
    """Yield each condition, and the sentence for the case that it does not hold."""
    yield (
        settings.namespace != "" or settings.plan,
        "MIC_POD_NAMESPACE is not set: set it to the namespace MIC runs in, in a pod from metadata.namespace",
    )
    for setting, (least, greatest), value in settings.out_of_range():
        unit = "s" if setting.read is go_duration else ""
        problem = f"--{setting.flag} is {value:g}{unit}; it may be {least:g}{unit} to {greatest:.12g}{unit}"
        yield (False, problem)
    yield (
        settings.probe_port != settings.metrics_port,
        f"--http-probe-port and --prometheus-port are both {settings.probe_port}; give each its own",
    )
    names = {
        "leader-election-namespace": settings.lease_namespace,
        "leader-election-name": settings.lease_name,
        "config-map-name": settings.upgrade_config_map,
    }
    for flag, text in names.items():
        yield (
            _DNS.fullmatch(text) is not None,
            f"--{flag} is {quoted(text)}; it must be a Kubernetes name (a-z, 0-9, - and .)",
        )
    for text in settings.allowed_resource_groups:
        yield (
            is_group_reference(text),
            f"--allowed-resource-groups names {quoted(text)}; write group or subscription/group, by comma",
        )
    yield (
        settings.arm_api_version == ""
        or re.fullmatch(r"\d{4}-\d{2}-\d{2}(-preview)?", settings.arm_api_version) is not None,
        f"--arm-api-version is {quoted(settings.arm_api_version)}; write one like 2024-07-01",
    )
    yield (
        re.fullmatch(r"[A-Za-z0-9._-]{1,253}", settings.upgrade_key) is not None,
        (
            f"--type-upgrade-status-key is {quoted(settings.upgrade_key)}; it must be a ConfigMap's key (letters, "
            "digits, -, _ and .)"
        ),
    )
    yield (
        settings.startup_taint == "" or _QUALIFIED.fullmatch(settings.startup_taint) is not None,
        (
            f"--startup-taint is {quoted(settings.startup_taint)}; it must be a taint's key alone, like "
            "aadpodidentity.k8s.io/nmi-not-ready, without value and effect"
        ),
    )
    yield (
        settings.startup_taint == "" or _SELECTOR.fullmatch(settings.nmi_selector) is not None,
        f"--startup-taint-nmi-selector is {quoted(settings.nmi_selector)}; write labels as name=value, by comma",
    )
    yield user_agent_demand(settings.custom_user_agent)

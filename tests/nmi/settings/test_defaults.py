"""Every default of NMI: a default is part of the interface. Excluded: what a setting does."""

from pathlib import Path

import msgspec

from nmi.flag_table import FLAG_OF, FLAGS
from nmi.settings import Settings, parse

DEFAULTS: dict[str, object] = {
    "node_name": "n1",
    "listen_address": "127.0.0.1",
    "listen_port": 2579,
    "max_connections": 0,
    "max_connections_per_pod": 0,
    "max_connection_bytes": 0,
    "max_head_bytes": 8192,
    "max_header_fields": 64,
    "max_target_bytes": 2048,
    "max_body_bytes": 16384,
    "first_byte_seconds": 10.0,
    "head_seconds": 10.0,
    "idle_seconds": 120.0,
    "write_seconds": 30.0,
    "drain_seconds": 10.0,
    "metadata_header_required": True,
    "allow_x_forwarded_for": False,
    "require_redirected": False,
    "block_instance_metadata": False,
    "allowed_metadata_paths": (),
    "proxy_all_metadata": False,
    "host_token_types": frozenset(),
    "operation_mode": "standard",
    "force_namespaced": False,
    "mic_namespace": "default",
    "exception_namespaces": (),
    "attempts_for_created": 16,
    "attempts_for_assigned": 4,
    "find_interval_seconds": 5,
    "max_hold_seconds": 45.0,
    "set_retry_after_header": False,
    "scale_features": True,
    "stale_identity": "serve",
    "address_evidence": True,
    "token_cache": True,
    "allowed_ad_endpoints": (),
    "allow_cross_namespace_secrets": False,
    "federated_identities": False,
    "federated_audience": "api://AzureADTokenExchange",
    "federated_exchange": "direct",
    "federated_exchange_annotation": False,
    "read_old_field_names": False,
    "token_proxy": "",
    "token_proxy_server_name": "",
    "token_proxy_ca_file": "",
    "token_proxy_ca_data": "",
    "ca_bundle": None,
    "azure_environment_file": None,
    "https_proxy": "",
    "no_proxy": "",
    "custom_user_agent": "",
    "metadata_ip": "169.254.169.254",
    "metadata_port": 80,
    "redirect": "auto",
    "redirect_target": "auto",
    "redirect_interval_seconds": 60,
    "fail_closed": False,
    "keep_redirect": False,
    "delete_conntrack": False,
    "route_localnet": "check",
    "allow_kubenet": False,
    "kubelet_config": Path("/etc/default/kubelet"),
    "metadata_cache_seconds": 10.0,
    "probe_port": 8080,
    "metrics_port": 9090,
    "handover_socket": "",
    "start_signal": "",
    "profile": False,
    "log_format": "text",
    "verbosity": 0,
    "log_to_stderr": True,
    "kubeconfig": "",
    "service_host": "",
    "service_port": "",
    "node_ip": "",
    "cleanup": False,
    "boot_guard": "none",
    "systemd_directory": "/etc/systemd/system",
    "version": False,
}

REFERENCE_FLAGS = (
    "node nmi-listen-address nmi-port metadata-ip metadata-port ipt-update-interval-sec forceNamespaced MICNamespace "
    "http-probe-port prometheus-port retry-attempts-for-created retry-attempts-for-assigned "
    "find-identity-retry-interval enableProfile enableScaleFeatures block-instance-metadata metadata-header-required "
    "operation-mode allow-network-plugin-kubenet kubelet-config set-retry-after-header enable-conntrack-deletion "
    "log-format v version custom-user-agent kubeconfig"
)


def test_every_default_is_as_documented() -> None:
    assert msgspec.structs.asdict(parse(["--node=n1"], {})) == DEFAULTS


def test_every_flag_of_the_go_implementation_exists_in_its_spelling() -> None:
    assert set(REFERENCE_FLAGS.split()) <= {flag.name for flag in FLAGS}


def test_every_flag_fills_a_field_and_every_field_has_one_source() -> None:
    fields = set(Settings.__struct_fields__)
    from_environment_only = {
        "azure_environment_file",
        "https_proxy",
        "no_proxy",
        "node_ip",
        "service_host",
        "service_port",
        "token_proxy",
        "token_proxy_server_name",
        "token_proxy_ca_file",
        "token_proxy_ca_data",
    }
    assert {flag.field for flag in FLAGS} == fields - from_environment_only
    assert len(FLAG_OF) == len(FLAGS)

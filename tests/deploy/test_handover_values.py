"""nmi.handover: two NMIs of a node fit next to each other. test_rendered_values.py has the update strategies."""

from typing import Any

from tools.chart.rendering import render

OFF = "--set=nmi.handover.enabled=false"
MONITORED = "--set=podMonitor.enabled=true,serviceMonitor.enabled=true,nmi.prometheusPort=9099"


def of_kind(kind: str, *options: str) -> list[Any]:
    return [each for each in render(options=list(options)) if each["kind"] == kind]


def daemon_set(*options: str) -> Any:
    # The cleanup hook is a DaemonSet, too.
    (found,) = [each for each in of_kind("DaemonSet", *options) if each["metadata"]["name"].endswith("-nmi")]
    return found["spec"]


def test_the_startup_probe_waits_for_the_signal_that_nmi_gives() -> None:
    (container,) = daemon_set()["template"]["spec"]["containers"]
    *_, path, seconds = container["startupProbe"]["exec"]["command"]
    assert f"--start-signal={path}" in container["args"]
    folder = path.rpartition("/")[0]
    (mount,) = [each for each in container["volumeMounts"] if each["mountPath"] == folder]
    (volume,) = [each for each in daemon_set()["template"]["spec"]["volumes"] if each["name"] == mount["name"]]
    assert "emptyDir" in volume, "the NMIs of a node must not share the signal"
    assert int(seconds) < container["startupProbe"]["timeoutSeconds"]


def test_no_host_port_prevents_the_second_pod() -> None:
    (container,) = daemon_set(MONITORED)["template"]["spec"]["containers"]
    assert "ports" not in container
    monitor = next(each for each in of_kind("PodMonitor", MONITORED) if "nmi" in each["metadata"]["name"])
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert "port" not in endpoint
    assert "$1:9099" in [each.get("replacement") for each in endpoint["relabelings"]]
    service = next(each for each in of_kind("Service", MONITORED) if each["metadata"]["name"].endswith("nmi-metrics"))
    assert [each["targetPort"] for each in service["spec"]["ports"]] == [9099]


def test_without_a_handover_everything_is_as_in_the_go_implementation() -> None:
    spec = daemon_set(OFF, MONITORED)
    (container,) = spec["template"]["spec"]["containers"]
    assert [each["name"] for each in container["ports"]] == ["metrics"]
    assert not any("handover" in each or "signal" in each for each in container["args"])
    assert "httpGet" in container["startupProbe"]
    assert "aad-pod-identity" not in str([each.get("hostPath") for each in spec["template"]["spec"]["volumes"]])

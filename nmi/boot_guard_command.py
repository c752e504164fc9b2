"""`nmi --boot-guard`: installs or removes the boot guard, for the init container of NMI's pod.

On a node with eBPF host routing the guard's rule could keep the node from getting its network for pods, so it is not
installed there, and an installed one is removed.
"""

import asyncio
import signal
from collections.abc import Coroutine
from pathlib import Path

from nmi.choices import BootGuardAction
from nmi.node import boot_guard
from nmi.node.host_routing import LABEL, HostRouting, by_kubelet, by_labels
from nmi.node.traffic_redirect import redirect_spec
from nmi.node_labels import NodeLabels
from nmi.settings import NmiSettings
from podidentity.exits import StartError
from podidentity.kube.access import ClusterAccess, find
from podidentity.kube.client import Client
from podidentity.kube.errors import AccessError
from podidentity.kube.first_contact import FirstContact
from podidentity.kube.sessions import small_session
from podidentity.telemetry import logs
from podidentity.telemetry.log_limit import LogLimit


async def run(settings: NmiSettings) -> str:
    """Return one line with what was done. Raises StartError.

    Where neither the kubelet's flags nor a request of limited time show the labels of the node, it waits for the API
    server, without changing anything.
    """
    directory = Path(settings.systemd_directory)
    file = directory / boot_guard.NAME
    if settings.boot_guard is BootGuardAction.REMOVE:
        removed = await asyncio.to_thread(boot_guard.remove, directory)
        return f"removed the boot guard ({file})" if removed else f"there was no boot guard ({file})"
    logs.configure(settings.log_format, settings.verbosity)
    if await _unless_ended(_host_routing(settings)) is HostRouting.EBPF:
        removed = await asyncio.to_thread(boot_guard.remove, directory)
        done = "the boot guard was removed" if removed else "no boot guard is installed"
        return f"the node has the label {LABEL}=true, where its rule could keep Cilium from starting: {done} ({file})"
    changed = await asyncio.to_thread(boot_guard.install, directory, redirect_spec(settings), settings.kubelet_config)
    return f"installed the boot guard ({file})" if changed else f"the boot guard is installed already ({file})"


async def _unless_ended(routing: Coroutine[None, None, HostRouting]) -> HostRouting:
    """Return the result of *routing*. Raises StartError at SIGTERM: the default action of SIGTERM does not apply to the
    first process of a container, and its pod would take the whole grace period to end.
    """
    reading = asyncio.ensure_future(routing)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, reading.cancel)
    try:
        return await reading
    except asyncio.CancelledError:
        raise StartError(
            "the boot guard was not changed, because a signal ended the wait for the node's labels: run this again"
        ) from None


async def _host_routing(settings: NmiSettings) -> HostRouting:
    local = await asyncio.to_thread(by_kubelet, settings.kubelet_config)
    if local is HostRouting.EBPF:
        return local
    access = await _find_access(settings)
    if isinstance(access, str):
        if local is HostRouting.UNKNOWN:
            raise StartError(
                f"cannot find out whether this node has eBPF host routing, where the boot guard must not be installed: "
                f"{settings.kubelet_config} lists no labels of it, and the API server cannot be asked ({access}): "
                f"give --node and --kubeconfig, or --kubelet-config with the file of KUBELET_NODE_LABELS"
            )
        return local
    agent, limit = settings.user_agent, LogLimit()
    async with Client(access, user_agent=agent, open_session=small_session) as client:
        contact = FirstContact(access, user_agent=agent, log_limit=limit, open_session=small_session)
        node_labels = NodeLabels(client, settings.node_name, log_limit=limit)
        labels = await node_labels.first(contact)
        if labels is None and local is not HostRouting.UNKNOWN:
            return local
        if labels is None:
            await contact.made()
            labels = await node_labels.read()
    return by_labels(labels)


async def _find_access(settings: NmiSettings) -> ClusterAccess | str:
    """Return the access to the API server, or the reason why there is none."""
    if not settings.node_name:
        return "--node is missing"
    try:
        return await find(settings.kubeconfig, settings.cluster_environment)
    except AccessError as error:
        return str(error)

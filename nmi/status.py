"""NMI's health, readiness and state, for its probes and its debug page."""

from nmi.assembly import TokenServer
from nmi.identity.cluster_cache import ClusterCache
from nmi.node.node_address import NodeAddressMonitor
from nmi.node.traffic_redirect import TrafficRedirect
from nmi.service import Serving
from podidentity.kube.first_contact import FirstContact
from podidentity.version import VERSION


class Status:
    """The status of one NMI. The caller sets the other parts as it creates them; until then they are None."""

    def __init__(self, redirect: TrafficRedirect, *, node: str, node_address: str | None) -> None:
        self._redirect = redirect
        self._node = node
        self._node_address = node_address
        self.serving: Serving | None = None
        self.contact: FirstContact | None = None
        self.address_monitor: NodeAddressMonitor | None = None
        self.cluster_cache: ClusterCache | None = None
        self.token_server: TokenServer | None = None

    def health(self) -> str:
        """Return the text of /healthz."""
        return "Active" if self.serving is not None and self.serving.service.active else "Not Active"

    def checks(self) -> dict[str, str | None]:
        """Return the problem of each check of /readyz; None if there is none."""
        contact, waiting = self.contact, self.serving.takeover.problem if self.serving is not None else ""
        monitor = self.address_monitor
        return {
            "active": None if self.health() == "Active" else waiting or "not serving (yet, or any more)",
            "api server": contact.problem if contact is not None else "not asked yet",
            "watches": _watch_problem(self.cluster_cache),
            "redirect": self._redirect.problem() or (monitor.problem if monitor is not None else None),
        }

    def notes(self) -> dict[str, str]:
        """Return notes that /readyz adds to its checks."""
        note = self._redirect.note()
        return {"redirect": note} if note else {}

    def state(self) -> dict[str, object]:
        """Return the state of every package for the debug page: no secrets, nothing unbounded."""
        built, serving = self.token_server, self.serving
        # docs/operations.md lists `feed` and `plumbing`, so they keep their names.
        components = {
            "feed": self.cluster_cache,
            "broker": built.broker if built is not None else None,
            "governor": built.governor if built is not None else None,
            "metadata": built.metadata_cache if built is not None else None,
            "server": serving.service.server if serving is not None else None,
            "plumbing": self._redirect,
        }
        states = {name: component.state() for name, component in components.items() if component is not None}
        predecessor = serving.predecessor if serving is not None else None
        return {
            "node": self._node,
            "version": VERSION,
            "health": self.health(),
            "node_address": self._node_address or "",
            "handover": predecessor.state() if predecessor is not None else "off",
            **states,
        }


def _watch_problem(cluster_cache: ClusterCache | None) -> str | None:
    """Return the problem of the watches for readiness; None if every watch is complete and not silent."""
    if cluster_cache is None:
        return "the watches have not started yet"
    if incomplete := cluster_cache.watches.incomplete():
        return f"first lists not complete: {', '.join(f'{name}: {reason}' for name, reason in incomplete.items())}"
    silent = cluster_cache.silent()
    return f"silent: {', '.join(silent)}; check that the API server responds to this node" if silent else None

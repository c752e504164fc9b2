"""The make target that runs a test: `make check`, `make test` or `make test-all`.

Markers state what a test needs. Some are set here, by fixture or directory; the others are written in the test module.
The needs of a test determine its target, so that each test has exactly one:

* `make check` runs tests that need nothing but the Python environment.
* `make test` adds tests that need root, or the programs running in a sandbox.
* `make test-all` adds tests that need programs of others (`make test-tools`) or the control plane of tests/testplane
  (`make test-plane`), and those that measure.
* `make e2e-node` runs tests on the real nodes of tests/realnode. `make test-node` runs those without the marker `long`,
  where the machine permits nodes. It is a part of `make test-all`.
* `make e2e-cilium` runs the tests that need a built Cilium agent in addition.
* `make test-nightly` runs tests that guard a release and not each change, by the marker `nightly`.
"""

import asyncio
import functools
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, Final

import pytest
from hypothesis import is_hypothesis_test

from tests.testplane import up

COLLECTED: Final = pytest.StashKey[list[tuple[str, frozenset[str]]]]()
"""The id and the markers of each collected test, also of those that -m deselects."""
TESTS: Final = Path(__file__).parent
MARKERS: Final = {
    "root": "needs root, for network namespaces, NAT rules or a program that only root installs",
    "plane": "needs the real control plane of tests/testplane, or kubectl, which is built with it",
    "tools": "needs a program of others: helm, Prometheus, nginx, a browser, valgrind, pip or a C compiler",
    "programs": "runs MIC, NMI or podidctl as processes on the emulators",
    "examples": "runs all its examples in `make nightly`, and a quarter in `make check` or `make test`",
    "measures": "measures delays, memory or CPU time, and runs alone",
    "images": "needs the images of `make local-images`",
    "model": "needs the model checker spin",
    "sdks": "needs the applications of tests/sdks",
    "node": "needs a real node of tests/realnode and the images of `make local-images`",
    "cilium": "needs a Cilium agent that tests/realnode/cilium_agent/build.sh built",
    "nightly": "guards a release and not each change: runs in `make nightly` only",
    "long": "takes minutes on a real node, and is not a part of `make e2e-node-quick`",
    "run_check": "runs in `make check`; set here on every test",
    "run_test": "runs in `make test`; set here on every test",
    "run_test_all": "runs in `make test-all`; set here on every test",
    "run_nightly": "runs in `make nightly`; set here on every test",
    "run_node": "runs in `make e2e-node`; set here on every test",
    "run_cilium": "runs in `make e2e-cilium`; set here on every test",
}

PLANE_FIXTURES: Final = frozenset({"plane", "new_plane", "kwok_plane", "short_memory_server", "kubectl"})
PROGRAM_FIXTURES: Final = frozenset({"cloud", "sandbox"})
DIRECTORIES: Final = {
    "benchmarks/servers": "tools",
    "deploy": "tools",
    "images/built": "images",
    "integration": "programs",
    "model": "model",
    "observability": "tools",
    "packaging": "tools",
    "realnode/on_cilium": "cilium",
    "realnode/scenarios": "node",
    "sdks": "sdks",
    "soak": "programs",
}
"""The marker of all tests in a directory."""
LONG: Final = (
    "mic/history/test_any_history.py",
    "mic/history/test_failing_servers.py",
    "integration/test_handover.py",
    "integration/test_handover_of_rules.py",
    "sandbox/cloud/test_sandbox_up.py",
    "mic/history/test_killed_at_every_call.py",
    "native/test_lanes_agree.py",
    "podidctl/faults/test_fault_table.py",
    "migration/test_switching_in_the_sandbox.py",
    "podidctl/access/test_the_real_program.py",
    "mic/test_the_real_program.py",
    "soak/test_short_soak.py",
    "sandbox/cloud/test_demos.py",
    "mic/history/test_broken_controllers_are_noticed.py",
    "podidentity/kube/test_access.py",
    "mic/preview/test_preview_equals_execution.py",
)
"""Files that take long. They start first, so that no process idles while another one ends with such a file."""
VIRTUAL: Final = frozenset(
    {
        "contract/leases",
        "mic/preview/test_preview_equals_execution.py",
        "mic/test_allowed_resource_groups.py",
        "mic/test_bindings_of_other_namespaces.py",
        "mic/test_calls_of_a_rollout.py",
        "mic/test_client_ids.py",
        "mic/test_compatible_with_the_go_implementation.py",
        "mic/test_desired_state.py",
        "mic/test_detach_grace.py",
        "mic/test_detaching.py",
        "mic/test_direct_writes.py",
        "mic/test_federated_identities.py",
        "mic/test_ignored_objects.py",
        "mic/test_lost_hosts.py",
        "mic/test_other_clients.py",
        "mic/test_quarantine.py",
        "mic/test_readiness_metrics_and_state.py",
        "mic/test_reconcile_api_server_failures.py",
        "mic/test_reconcile_passes.py",
        "mic/test_startup_taint.py",
        "mic/test_the_clusters_own_identity.py",
        "mic/test_updates_in_place.py",
        "mic/test_view.py",
        "mic/test_work_queue.py",
        "mic/test_write_limiter.py",
        "mic/type_upgrade",
        "nmi/identity/test_lookup_wait.py",
        "nmi/identity/test_doubtful_pods.py",
        "nmi/identity/test_exceptions.py",
        "nmi/identity/test_following_pods.py",
        "nmi/identity/test_managed_mode.py",
        "nmi/identity/test_many_assignments.py",
        "nmi/identity/test_suspensions.py",
        "nmi/identity/test_unknown_addresses.py",
        "nmi/node/test_cleanup_patience.py",
        "nmi/node/test_network_monitor.py",
        "nmi/node/test_rule_changes_pause.py",
        "nmi/node/test_rules_follow_the_labels.py",
        "nmi/server/test_connections_in_order.py",
        "nmi/server/test_two_greedy_pods_and_metadata.py",
        "nmi/test_issuer_holds.py",
        "nmi/test_issuer.py",
        "nmi/test_issuer_exempt_and_mirror_pods.py",
        "nmi/test_issuer_races.py",
        "nmi/test_issuer_host_and_managed_mode.py",
        "nmi/test_issuer_doubtful_pods.py",
        "nmi/test_node_labels.py",
        "nmi/tokens/test_secrets_stay_secret.py",
        "nmi/tokens/test_token_metrics.py",
        "nmi/tokens/test_assertions.py",
        "nmi/tokens/test_breaker.py",
        "nmi/tokens/test_requests_to_imds.py",
        "nmi/tokens/test_endpoint_failures.py",
        "nmi/tokens/test_federated_identities.py",
        "nmi/tokens/test_governor.py",
        "nmi/tokens/test_shares_of_namespaces.py",
        "nmi/tokens/test_outages.py",
        "nmi/tokens/test_two_greedy_pods_and_sign_ins.py",
        "nmi/tokens/test_separate_tokens.py",
        "nmi/tokens/test_service_principals.py",
        "nmi/tokens/test_sign_in_failures.py",
        "nmi/tokens/test_sign_in_policy.py",
        "nmi/tokens/test_single_flight.py",
        "nmi/tokens/test_token_cache.py",
        "nmi/tokens/test_token_transfer.py",
        "nmi/tokens/test_tokens_by_identity_bindings.py",
        "nmi/tokens/test_two_greedy_pods.py",
        "podidctl/test_order_and_similarity.py",
        "podidentity/azure_imds/test_imds_requests.py",
        "podidentity/kube/test_plain_objects.py",
        "podidentity/kube/test_events_bounds.py",
        "podidentity/kube/test_skipped_objects.py",
        "podidentity/kube/test_informer_hold.py",
        "podidentity/kube/test_informer_lists_and_watches.py",
        "podidentity/kube/test_informer_skips.py",
        "podidentity/kube/test_lease_time.py",
        "podidentity/kube/test_lists_of_any_size.py",
        "podidentity/telemetry/test_loop_lag.py",
        "podidentity/test_machine_sleep.py",
        "support/test_memory_network.py",
        "support/test_virtual_time_is_kept.py",
    }
)
"""Files and folders whose tests run in virtual time, without sockets, threads and processes."""
IN_TEST_ALL: Final = frozenset({"tools", "plane", "measures", "images", "model", "sdks"})
IN_TEST: Final = frozenset({"root", "programs"})


@functools.cache
def needs_of_path(path: PurePath) -> tuple[str, ...]:
    """Return the markers that follow from the *path* of a test, relative to tests/."""
    return tuple(marker for directory, marker in DIRECTORIES.items() if path.is_relative_to(directory))


def needs_of(path: PurePath, fixtures: frozenset[str]) -> Iterator[str]:
    """Yield the markers that follow from the *path* of a test, relative to tests/, and from its *fixtures*."""
    yield from needs_of_path(path)
    if fixtures & PLANE_FIXTURES:
        yield "plane"
    if fixtures & PROGRAM_FIXTURES:
        yield "programs"


def run_of(markers: frozenset[str]) -> str:
    """Return the marker of the target that runs a test with these *markers*."""
    if "cilium" in markers:
        return "run_cilium"
    if "node" in markers:
        return "run_node"
    if "nightly" in markers:
        return "run_nightly"
    if markers & IN_TEST_ALL:
        return "run_test_all"
    return "run_test" if markers & IN_TEST else "run_check"


def is_virtual(item: pytest.Item) -> bool:
    """Return whether *item* runs in virtual time. A test with programs or a control plane does not."""
    path = _relative(item.path)
    fixtures = set(getattr(item, "fixturenames", ()))
    if fixtures & (PLANE_FIXTURES | PROGRAM_FIXTURES):
        return False
    return not VIRTUAL.isdisjoint(map(str, (path, *path.parents)))


def start_of(item: pytest.Item) -> int:
    """Return the key by which the items are sorted: files in LONG first. Other items keep their order."""
    return _START.get(str(_relative(item.path)), len(LONG))


_START: Final = {path: number for number, path in enumerate(LONG)}


@functools.cache
def _relative(path: Path) -> Path:
    return path.relative_to(TESTS) if path.is_relative_to(TESTS) else Path(path.name)


def mark(item: pytest.Item) -> frozenset[str]:
    """Add to *item* the markers of its needs and of its target. Return all its markers."""
    fixtures = frozenset(item.fixturenames) if isinstance(item, pytest.Function) else frozenset[str]()
    for marker in needs_of(_relative(item.path), fixtures):
        item.add_marker(marker)
    if is_hypothesis_test(getattr(item, "obj", None)):
        item.add_marker("examples")
    needs = frozenset(each.name for each in item.iter_markers())
    run = run_of(needs)
    item.add_marker(run)
    return needs | {run}


class Downloads:
    """Guard of the downloaded programs: only tests with the marker `plane`, `tools` or `node` use them.

    Without it, a test without that marker would download or compile a program during `make check`.
    """

    def __init__(self) -> None:
        self._needs: set[str] | None = None

    def test_needs(self, markers: set[str]) -> None:
        """Take *markers* as those of the test that now starts. Before the first test everything is allowed."""
        self._needs = markers

    def listen(self, patch: Callable[[object, str, Any], None]) -> None:
        """Check the calls of tests/testplane. *patch* replaces an attribute of a module."""
        build, tool = up.build, up.tool

        def checked_build() -> Path:
            self._require("plane", "node")
            return build()

        def checked_tool(name: str) -> Path:
            self._require(
                *({"plane", "node"} if name in {"actionlint", "d2", "kubectl"} else {"plane", "tools", "node"})
            )
            return tool(name)

        patch(up, "build", checked_build)
        patch(up, "tool", checked_tool)

    def _require(self, *markers: str) -> None:
        if self._needs is not None and self._needs.isdisjoint(markers):
            raise RuntimeError(f"the test uses a downloaded program; add the marker {' or '.join(sorted(markers))}")


PROGRAMS: Final = frozenset({"mic", "nmi", "podidctl", "kubectl-podidentity"})
"""Modules and scripts of the programs."""


def starts_program(argv: Sequence[str]) -> bool:
    """Return whether the command starts MIC, NMI or podidctl, also behind a command such as setpriv or ip netns."""
    modules = (module for option, module in itertools.pairwise(argv) if option == "-m")
    scripts = (PurePath(each).name for each in argv if PurePath(each).parent.name == "bin")
    return not PROGRAMS.isdisjoint({*modules, *scripts, *argv[:1]})


class Programs:
    """Guard of the programs: only tests outside `make check` start MIC, NMI or podidctl as processes.

    Such a test takes seconds, or half a minute on a busy machine, and then fails for reasons that are not the change.
    """

    def __init__(self) -> None:
        self._allowed = True

    def test_needs(self, markers: set[str]) -> None:
        """Take *markers* as those of the test that now starts. Before the first test everything is allowed."""
        self._allowed = not markers.isdisjoint({*IN_TEST, *IN_TEST_ALL, "node"})

    def listen(self, patch: Callable[[object, str, Any], None]) -> None:
        """Check the started processes. *patch* replaces an attribute of a class or module."""
        begin, create = subprocess.Popen.__init__, asyncio.create_subprocess_exec

        @functools.wraps(begin)
        def checked_begin(this: "subprocess.Popen[Any]", args: Any, *rest: Any, **options: Any) -> None:
            self._check([args] if isinstance(args, str | bytes | os.PathLike) else args)
            begin(this, args, *rest, **options)

        @functools.wraps(create)
        async def checked_create(*argv: Any, **options: Any) -> asyncio.subprocess.Process:
            self._check(argv)  # uvloop starts processes without Popen
            return await create(*argv, **options)

        patch(subprocess.Popen, "__init__", checked_begin)
        patch(asyncio, "create_subprocess_exec", checked_create)

    def _check(self, argv: Sequence[Any]) -> None:
        if not self._allowed and starts_program([os.fsdecode(each) for each in argv]):
            raise RuntimeError("the test starts a program of this project as a process; add the marker programs")

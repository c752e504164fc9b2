"""Load on a test bed: pods that request tokens at a constant rate, each with an identity of its own."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.directory import ManagedIdentity
from tests.system.node.bed import Bed
from tests.system.node.evaluation import Result, parse_load_log
from tests.system.node.manifests import binding, identity, load_pod
from tests.system.node.processes import wait_for

NEW_PERCENT: Final = 50
"""The share of requests on a connection of their own."""
START_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class LoadCounts:
    """The requests of all load pods."""

    requests: int
    refused: int
    failed: int
    wrong: int
    slowest_seconds: float
    outcomes: Mapping[str, int]

    def added_to(self, result: Result) -> Result:
        """Return *result* with these requests added to its counts."""
        new = sum(count for outcome, count in self.outcomes.items() if outcome.startswith("new "))
        return msgspec.structs.replace(
            result,
            remark=f"{self.requests:,} requests under load, {new:,} of them on a connection of their own; the slowest "
            f"took {self.slowest_seconds:.2f} s.",
            refused=result.refused + self.refused,
            failed=result.failed + self.failed,
            wrong=result.wrong + self.wrong,
            outcomes={**result.outcomes, **self.outcomes},
        )


@dataclass
class Load:
    """*pods* pods on the first node of *bed* that send *rate* requests a second in total."""

    bed: Bed
    rate: float
    pods: int = 4
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = [f"load-{number}" for number in range(self.pods)]

    def start(self) -> None:
        """Create identities, bindings and pods. Wait until each gets only tokens of its identity. Raise BedError."""
        for name in self.names:
            made = self._create_identity(name)
            self.bed.apply(
                identity(name, made.resource_id, made.client_id),
                binding(name),
                load_pod(
                    name,
                    selector=name,
                    rate=self.rate / self.pods,
                    new_percent=NEW_PERCENT,
                    nodeName=self.bed.nodes[0].name,
                ),
            )
        wait_for(self._is_running, START_SECONDS, "the load pods do not get tokens")

    def stop(self) -> None:
        """Delete pods, bindings and identities."""
        for kind in ("pod", "azureidentitybinding", "azureidentity"):
            self.bed.kubectl("delete", kind, *self.names)

    def counts(self, since: float) -> LoadCounts:
        """Return the requests from *since* on, in Unix seconds."""
        total: Counter[str] = Counter()
        wrong, slowest = 0, 0.0
        for name in self.names:
            outcomes, took = self._outcomes(name, since)
            total.update(outcomes)
            slowest = max(slowest, took)
            wrong += sum(
                count
                for outcome, count in outcomes.items()
                if " token " in outcome and not outcome.endswith(f" token {name}")
            )
        tokens = sum(count for outcome, count in total.items() if " token " in outcome)
        refused = sum(count for outcome, count in total.items() if outcome.endswith(" refused"))
        requests = total.total()
        return LoadCounts(requests, refused, requests - tokens - refused, wrong, slowest, dict(sorted(total.items())))

    def _create_identity(self, name: str) -> ManagedIdentity:
        return self.bed.azure.call(lambda emulator: emulator.directory.add_identity(identity_id(name)))

    def _is_running(self) -> bool:
        for name in self.names:
            last = self._lines(name)[-1:]
            outcomes, _ = parse_load_log("\n".join(last))
            if not outcomes or any(not outcome.endswith(f" token {name}") for outcome in outcomes):
                return False
        return True

    def _outcomes(self, name: str, since: float) -> tuple[Counter[str], float]:
        return parse_load_log("\n".join(self._lines(name)), since)

    def _lines(self, name: str) -> list[str]:
        logs = self.bed.nodes[0].log_folder.glob(f"default_{name}_*/main/*.log")
        return [line for log in sorted(logs) for line in log.read_text(errors="replace").splitlines()]

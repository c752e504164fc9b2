"""Check of the tokens that NMI refused in the last minutes, from its Events on pods. Pure."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from podidctl.diagnosis.recent_refusals import RECENT_SECONDS
from podidctl.doctor.schema import Finding, Level, make_finding
from podidctl.doctor.state import RefusedPod
from podidctl.printing import listed
from podidentity.report import counted

CHECK = "tokens"


def check_tokens(refused: Sequence[RefusedPod]) -> Iterator[Finding]:
    """Report the pods whose last request NMI refused, one finding for each cause."""
    causes: defaultdict[str, list[str]] = defaultdict(list)
    for each in refused:
        causes[each.refusal.text].append(each.pod)
    minutes = round(RECENT_SECONDS / 60)
    for text, pods in sorted(causes.items(), key=lambda each: -len(each[1])):
        says = (
            f"NMI refused tokens to {counted(len(pods), 'pod')} in the last {minutes} minutes: {listed(pods)}: {text}"
        )
        yield make_finding(CHECK, Level.PROBLEM, says, text)
    if not causes:
        yield make_finding(CHECK, Level.OK, f"NMI refused no token in the last {minutes} minutes")

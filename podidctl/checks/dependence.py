"""What a fault of an identity means for a pod that others than its own team may have bound to it. Pure."""

from dataclasses import replace

from podidctl.evaluation.pod import PodCase, sets_client_id
from podidctl.facts.model import IdentityKey
from podidctl.report.finding import Finding, Level


def for_the_pod(case: PodCase, key: IdentityKey, finding: Finding) -> Finding:
    """Return the finding about the AzureIdentity *key*, which is no fault if the pod does not depend on it, and unknown
    if only the requests that name the identity do.
    """
    if finding.level is not Level.PROBLEM or case.depends_on(key):
        return finding
    if key in case.usable and sets_client_id(case.pod) is not False:
        message = f"of another namespace, and only requests that name this identity need it: {finding.message}"
        return replace(finding, level=Level.UNKNOWN, message=message)
    message = f"of another namespace, and the pod does not depend on it: {finding.message}"
    return replace(finding, level=Level.OK, message=message, next="")

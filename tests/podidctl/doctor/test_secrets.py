"""NMI's right to read Secrets: reported where it is missing, and where no identity needs it."""

from typing import Any

import msgspec

from podidctl.diagnosis.input import ReadFailure
from podidctl.doctor.schema import Finding, Level
from podidctl.doctor.secrets import namespaces_of
from podidctl.doctor.state import SecretAccess
from podidentity.resources import AzureIdentity, SecretReference
from tests.podidctl.doctor_inputs import examined, objects
from tests.support.nmi_objects import identity

NMI = "kube-system/nmi"


def principal(namespace: str = "ns", secret_namespace: str = "", type_: int = 1) -> AzureIdentity:
    made = identity("sp", namespace=namespace, type_=type_)
    spec = msgspec.structs.replace(made.spec, client_password=SecretReference(name="s", namespace=secret_namespace))
    return msgspec.structs.replace(made, spec=spec)


def diagnose_secrets(*access: SecretAccess, **changes: Any) -> list[Finding]:
    report = examined(secrets=access, **changes)
    return [each for each in report.findings if each.check == "secrets"]


def test_an_unneeded_permission_for_all_secrets_is_reported_with_the_value_that_removes_it() -> None:
    (line,) = diagnose_secrets(SecretAccess(NMI, everywhere=True))
    assert line.level is Level.WARNING
    assert "NMI's service account kube-system/nmi may get every Secret of the cluster" in line.says
    assert "nmi.servicePrincipals=auto or false" in line.next
    assert diagnose_secrets(SecretAccess(NMI)) == []


def test_if_an_identity_needs_it_the_sufficient_namespaces_are_named() -> None:
    for type_ in (1, 2):
        with_one = objects(identities=(identity(), principal(type_=type_)))
        (line,) = diagnose_secrets(SecretAccess(NMI, everywhere=True, needed=("ns",)), objects=with_one)
        assert line.level is Level.OK
        assert "rbac.secretNamespaces can limit it to ns" in line.says
        (line,) = diagnose_secrets(SecretAccess(NMI, needed=("ns",)), objects=with_one)
        assert (line.level, line.next) == (Level.OK, "")
    federated = objects(identities=(principal(type_=3),))
    assert diagnose_secrets(SecretAccess(NMI, everywhere=True), objects=federated)[0].level is Level.WARNING


def test_a_namespace_without_the_permission_is_a_problem_that_names_namespace_and_value() -> None:
    (line,) = diagnose_secrets(SecretAccess(NMI, needed=("ns", "shop"), forbidden=("shop",)), objects=objects())
    assert line.level is Level.PROBLEM
    assert line.says.endswith("in shop")
    assert "rbac.secretNamespaces" in line.next
    assert "nmi.servicePrincipals=true" in line.next


def test_a_failed_permission_check_is_unknown() -> None:
    report = examined(secrets=ReadFailure("subjectaccessreviews is forbidden"))
    (line,) = [each for each in report.findings if each.check == "secrets"]
    assert line.level is Level.UNKNOWN


def test_a_secret_is_in_the_identitys_namespace_unless_another_is_named_and_allowed() -> None:
    identities = [principal("b"), principal("a", "vault"), identity("user-assigned")]
    assert namespaces_of(identities, cross_namespace=False) == ("a", "b")
    assert namespaces_of(identities, cross_namespace=True) == ("b", "vault")

"""`podidctl migrate plan -o az|terraform|bicep|aso` in the sandbox."""

from tests.support.migration.azure_plans import CLUSTER_ID, PRINCIPAL
from tests.support.migration.federation_sandbox import Federation
from tests.support.objects import identity_id

BINDINGS = ("--exchange", "identityBindings")


async def test_each_form_has_the_credential_and_the_role_assignment_or_the_binding(cloud: Federation) -> None:
    direct = ("--grant-to", PRINCIPAL.upper())
    bound = (*BINDINGS, "--cluster", CLUSTER_ID)
    for form in ("az", "terraform", "bicep", "aso"):
        answer = await cloud.migrate("plan", "-o", form, "--tenant", "t", *direct)
        assert answer.code == 3
        for text in ("system:serviceaccount:default:web", cloud.cloud.api.url, PRINCIPAL, "default-web"):
            assert text in answer.out
    for form in ("az", "terraform", "bicep"):
        answer = await cloud.migrate("plan", "-o", form, "--tenant", "t", *bound)
        assert answer.code == 3
        assert identity_id("demo").lower() in answer.out.lower()
        assert "system:serviceaccount" not in answer.out
        assert "issuer" not in answer.out
    assert cloud.cloud.aad.calls == []


async def test_identity_bindings_need_the_cluster(cloud: Federation) -> None:
    answer = await cloud.migrate("plan", "-o", "az", *BINDINGS)
    assert (answer.code, answer.out) == (1, "")
    assert "identity bindings (of default/demo) need the resource id of the cluster: pass --cluster" in answer.err

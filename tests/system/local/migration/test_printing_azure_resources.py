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


async def test_an_unusable_value_is_named(cloud: Federation) -> None:
    for arguments, text in (
        (BINDINGS, "identity bindings (of default/demo) need the resource id of the cluster: pass --cluster"),
        ((*BINDINGS, "--cluster", "c\x1b"), "--cluster 'c\\x1b' is not the resource id of an AKS cluster"),
        (("--grant-to", "me"), "--grant-to 'me' is not an object id"),
        (("default/missing",), "AzureIdentity default/missing does not exist: see kubectl get azureidentities -A"),
    ):
        answer = await cloud.migrate("plan", "-o", "az", *arguments)
        assert (answer.code, answer.out) == (1, "")
        assert text in " ".join(answer.err.split())


async def test_identities_of_several_resource_groups_need_several_bicep_files(cloud: Federation) -> None:
    group = identity_id("demo").split("/")[4]
    cloud.cloud.identity("other", resourceID=identity_id("other").replace(f"/{group}/", "/elsewhere/"))
    cloud.pod("other-1", label="other")
    refused = await cloud.migrate("plan", "-o", "bicep", "--tenant", "t")
    assert refused.code == 1
    assert "elsewhere: default/other" in refused.err
    single = await cloud.migrate("plan", "-o", "bicep", "--tenant", "t", "default/other")
    assert (single.code, "--resource-group elsewhere" in single.out) == (3, True)

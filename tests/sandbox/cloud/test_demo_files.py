"""The ids in deploy/demo are those of the sandbox's Azure, so that it can be applied unchanged."""

from pathlib import Path

import yaml

from podidentity.resources import BINDINGS, IDENTITIES, PODS
from podidentity_demo.settings import parse
from podidentity_sandbox.azure import DEMO_CLIENT_ID, DEMO_IDENTITY, RESOURCE_GROUP, SUBSCRIPTION, identity_id
from podidentity_sandbox.cluster import DEMO, kind_of, read_documents
from podidentity_sandbox.launching import IMAGE

CHART = Path(__file__).parents[3] / "deploy" / "charts" / "aad-pod-identity"


def test_the_files_contain_the_sandboxs_ids() -> None:
    identity, binding, pod = read_documents(DEMO)
    assert identity["spec"] == {"type": 0, "resourceID": identity_id(DEMO_IDENTITY), "clientID": DEMO_CLIENT_ID}
    assert binding["spec"]["azureIdentity"] == identity["metadata"]["name"]
    assert pod["metadata"]["labels"] == {"aadpodidbinding": binding["spec"]["selector"]}
    (container,) = pod["spec"]["containers"]
    assert IMAGE.fullmatch(container["image"])
    chart, values = (yaml.safe_load((CHART / name).read_text()) for name in ("Chart.yaml", "values.yaml"))
    assert container["image"] == f"{values['image']['repository']}/{values['test']['image']}:{chart['appVersion']}"
    settings = parse(container["args"], {})
    assert (settings.subscription, settings.client_id) == (SUBSCRIPTION, DEMO_CLIENT_ID)
    assert settings.resource_group == RESOURCE_GROUP


def test_kinds_are_found_by_their_names() -> None:
    plurals = [kind_of(document).plural for document in read_documents(DEMO)]
    assert plurals == [IDENTITIES.plural, BINDINGS.plural, PODS.plural]

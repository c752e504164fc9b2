"""Pods with a misspelled key of the label are named, within bounds; other labels are not reported."""

from typing import Any

import pytest

from nmi.pod_events import TOKEN_REFUSED
from podidctl.evaluation.similar_texts import meant_as_label
from podidctl.facts.model import Facts, MeantLabel, ReadFailure
from podidctl.reading import objects as reading
from podidctl.reading.objects import LABELS_MAX, read_mislabelled
from podidctl.reading.reader import CLUSTER, read
from podidctl.reading.requests import or_late
from podidctl.report.finding import Level
from podidentity.kube.errors import NoResponse, TimedOut
from tests.support.nmi_objects import binding, exception
from tests.support.podidctl.doctor_inputs import bad, examined, objects, one
from tests.support.podidctl.memory_cluster import MemoryCluster


def create(cluster: MemoryCluster, name: str, *, namespace: str = "default", phase: str = "", **labels: str) -> None:
    document = {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": [{"name": "web", "image": "i"}]},
    }
    cluster.api.store.create("pods", document)
    if phase:
        cluster.api.store.patch("pods", name, {"status": {"phase": phase}}, namespace, subresource="status")


async def test_pods_with_a_misspelled_label_are_read_and_others_are_not(cluster: MemoryCluster) -> None:
    create(cluster, "typo", aadpodidbindng="web")
    create(cluster, "case", namespace="kube-system", aadPodIdBinding="web")
    create(cluster, "word", aadpodidentitybinding="api")
    create(cluster, "right", aadpodidbinding="web", aadpodidbindng="web")
    create(cluster, "plain", app="web")
    create(cluster, "ended", phase="Succeeded", aadpodidbindng="web")
    assert await read_mislabelled(cluster.client, Facts()) == {
        "default/typo": MeantLabel("aadpodidbindng", "web"),
        "kube-system/case": MeantLabel("aadPodIdBinding", "web"),
        "default/word": MeantLabel("aadpodidentitybinding", "api"),
    }


async def test_the_pods_and_labels_that_are_read_are_bounded(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {f"a{number:03}": "x" for number in range(LABELS_MAX)}
    create(cluster, "many", **before, aadpodidbindng="x")
    before.popitem()
    create(cluster, "fewer", **before, aadpodidbindng="x")
    assert list(await read_mislabelled(cluster.client, Facts())) == ["default/fewer"]
    monkeypatch.setattr(reading, "UNLABELLED_MAX", 1)
    for number in range(600):  # more than a page
        create(cluster, f"p{number:03}", aadpodidbindng="x")
    assert len(await read_mislabelled(cluster.client, Facts())) == 499


async def test_the_compared_keys_of_all_pods_are_bounded(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []

    def compare(keys: list[str]) -> list[str]:
        compared.extend(keys)
        return meant_as_label(keys)

    monkeypatch.setattr(reading, "meant_as_label", compare)
    monkeypatch.setattr(reading, "KEYS_MAX", 5)
    create(cluster, "a", app="x", aadpodidbindng="x")
    create(cluster, "b", app="x", aadpodidbindng="x")
    others = {f"key{number}": "x" for number in range(50)}
    create(cluster, "c", **others)
    create(cluster, "d", app="x", aadpodidbindng="x")
    create(cluster, "e", aadpodidbindig="x")
    assert list(await read_mislabelled(cluster.client, Facts())) == [*("default/a", "default/b", "default/d")]
    assert len(compared) == len(set(compared)) == 5


MEANT = {"shop/web": MeantLabel("aadpodidbindng", "idle")}


def test_a_misspelled_label_is_a_warning_that_names_the_pod_and_the_key() -> None:
    line = one(examined(mislabelled=MEANT))
    assert (line.check, line.level) == ("labels", Level.WARNING)
    assert line.says == "1 pod has no label aadpodidbinding, but one like it: shop/web ('aadpodidbindng')"
    many = {f"shop/web-{number}": label for number in range(5_000) for label in MEANT.values()}
    assert "and 4995 more" in one(examined(mislabelled=many)).says
    assert bad(examined()) == []


def test_the_binding_for_its_value_is_no_finding_of_its_own_and_another_idle_one_is() -> None:
    idle = binding("idle", selector="idle")
    line = one(examined(mislabelled=MEANT, objects=objects(bindings=(binding(), idle))))
    assert [effect.check for effect in line.affects] == ["selectors"]
    more = objects(bindings=(binding(), idle, binding("more", selector="more")))
    assert {finding.check for finding in bad(examined(mislabelled=MEANT, objects=more))} == {"labels", "selectors"}


def test_a_key_that_an_exception_of_the_namespace_requires_is_not_reported() -> None:
    exempt = {"ns/tool": MeantLabel("aadpod-exempt", "true")}
    required = {"aadpod-exempt": "true"}
    assert bad(examined(mislabelled=exempt, objects=objects(exceptions=(exception(labels=required),)))) == []
    for other in (exception(labels=required, namespace="other"), exception(labels={"app": "web2"})):
        assert one(examined(mislabelled=exempt, objects=objects(exceptions=(other,)))).check == "labels"


def test_pods_that_could_not_be_read_are_unknown() -> None:
    line = one(examined(mislabelled=ReadFailure("not allowed: pods")))
    assert (line.check, line.level) == ("labels", Level.UNKNOWN)


@pytest.mark.parametrize("field", ["mislabelled", "unassigned"])
async def test_a_list_that_takes_too_long_ends_no_other_read(
    field: str, cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = cluster.client.pages
    selected = {"mislabelled": ("label_selector", "!"), "unassigned": ("field_selector", "involvedObject.kind=Pod,")}
    parameter, begin = selected[field]

    async def late(*scope: Any, **selectors: Any) -> Any:
        selector = selectors.get(parameter, "")
        if selector.startswith(begin) and TOKEN_REFUSED not in selector:
            raise TimedOut("https://api", 10.0)
        async for page in pages(*scope, **selectors):
            yield page

    monkeypatch.setattr(cluster.client, "pages", late)
    facts = await read(cluster.client, Facts(), CLUSTER)
    assert getattr(facts, field) == ReadFailure("no response from https://api within 10 s", is_forbidden=False)
    assert facts.server.version


async def test_a_lost_connection_ends_the_reads() -> None:
    async def lost() -> None:
        raise NoResponse("connection refused")

    with pytest.raises(NoResponse, match="refused"):
        await or_late(lost())

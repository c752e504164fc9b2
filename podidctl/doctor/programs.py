"""Checks of the pods of NMI and MIC: on every node, ready, of one version, and with consistent flags. Pure."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from mic.decisions.policy import Policy
from mic.startup.policy import policy_of
from mic.startup.settings import Settings as MicSettings
from mic.startup.settings import parse as parse_mic
from nmi.choices import OperationMode
from nmi.settings import Settings as NmiSettings
from podidctl.diagnosis.daemons import Daemon, environment_of, mic_namespaces, nmi_settings, parseable_flags
from podidctl.diagnosis.input import NmiConfiguration
from podidctl.diagnosis.node_placement import PlacedNode, missing_nmi
from podidctl.doctor.exemptions import exemption_reasons
from podidctl.doctor.schema import Finding, Level, make_finding
from podidctl.printing import listed
from podidentity.flags import UsageError
from podidentity.report import counted
from podidentity.resources import AzurePodIdentityException, Pod, PodSpec

T = TypeVar("T")


def mic_settings(daemon: Daemon) -> MicSettings:
    """Return the settings of the MIC in that pod. Raises UsageError for a command line that this version's MIC
    rejects.
    """
    environ = environment_of(daemon, "mic")
    kept: dict[str, str] = {name: environ[name] for name in ("FORCENAMESPACED",) if name in environ}
    kept["MIC_POD_NAMESPACE"] = daemon.metadata.namespace
    return parse_mic(parseable_flags(daemon, "mic"), kept)


def coverage(nmi: Sequence[Daemon], nodes: Sequence[PlacedNode] | None) -> Iterator[Finding]:
    """Check that every suitable node has a ready NMI. *nodes*: None if they could not be read."""
    if not nmi:
        then = "install NMI; if it runs outside of a pod with its label, read its /readyz on each node"
        yield make_finding(
            "NMI", Level.UNKNOWN, "no pod has NMI's label (app.kubernetes.io/component=nmi, component=nmi)", then
        )
        return
    outside = [each.name for each in nmi if not each.is_part_of_node]
    if outside:
        says = (
            f"{counted(len(outside), 'pod')} with NMI's label, none of them in the node's network or with files of the "
            f"node: {listed(outside)}"
        )
        then = "install NMI as a DaemonSet by its chart: anyone with permission to create a pod can set its label"
        yield make_finding("NMI", Level.PROBLEM, says, then)
        return
    there = {each.spec.node_name for each in nmi}
    without = [each for each in nodes or () if each.metadata.name not in there and each.can_run_nmi]
    yield from _without_nmi(without, nmi)
    unready = [each for each in nmi if not each.ready]
    if unready:
        says = f"{counted(len(unready), 'NMI is', 'NMIs are')} not ready: " + listed(
            f"{each.name} on {each.spec.node_name} ({each.not_ready_reason})" for each in unready
        )
        yield make_finding("NMI", Level.PROBLEM, says, "see kubectl logs of these pods, and their /readyz")
    if nodes is None:
        says = f"it runs on {counted(len(there), 'node')}, and the nodes without it are not known"
        yield make_finding("NMI", Level.UNKNOWN, says, "run this command with more permissions: list on nodes")
    elif not without and not unready:
        yield make_finding("NMI", Level.OK, f"ready on {counted(len(there), 'node')}")


def _without_nmi(nodes: Sequence[PlacedNode], nmi: Sequence[Daemon]) -> Iterator[Finding]:
    """Report *nodes*, which have no NMI, one finding for each cause."""
    by_cause: defaultdict[str, list[str]] = defaultdict(list)
    actions: dict[str, str] = {}
    for each in nodes:
        missing = missing_nmi(each, nmi)
        by_cause[missing.why].append(each.metadata.name)
        actions.setdefault(missing.why, missing.then)
    for why, names in by_cause.items():
        says = f"{counted(len(names), 'node')} without NMI, where IMDS responds to pods: {listed(names)}: {why}"
        yield make_finding("NMI", Level.PROBLEM, says, actions[why])


def controllers(mic: Sequence[Daemon], nmi: Sequence[Daemon], *, managed: bool) -> Iterator[Finding]:
    """Check that a MIC runs if one is needed, and none otherwise."""
    ready = [each for each in mic if each.ready]
    expected = {each.metadata.namespace for each in nmi} | mic_namespaces(nmi)
    if nmi and mic and not any(each.metadata.namespace in expected for each in mic):
        says = (
            f"no pod with MIC's label is in NMI's namespace or in its --MICNamespace ({listed(expected)}), but "
            f"elsewhere: {listed(each.name for each in mic)}"
        )
        then = (
            "install MIC there, or set NMI's --MICNamespace to MIC's namespace; anyone with permission to create a pod "
            "can set the label"
        )
        yield make_finding("MIC", Level.WARNING, says, then)
        return
    if managed and mic:
        says = f"NMI runs in managed mode, which does not use MIC: {listed(each.name for each in mic)}"
        yield make_finding("MIC", Level.WARNING, says, "delete MIC's Deployment, or run NMI in standard mode")
    elif mic and not ready:
        says = f"no MIC is ready: {listed(f'{each.name} ({each.not_ready_reason})' for each in mic)}"
        yield make_finding(
            "MIC", Level.PROBLEM, says, ("see kubectl logs of these pods: without MIC nothing is assigned")
        )
    elif mic:
        yield make_finding("MIC", Level.OK, f"{len(ready)} of {counted(len(mic), 'replica')} ready")
    elif not managed:
        then = "install MIC; if it runs outside of a pod with its label, see the leader check"
        yield make_finding(
            "MIC", Level.UNKNOWN, "no pod has MIC's label (app.kubernetes.io/component=mic, component=mic)", then
        )


def versions(nmi: Sequence[Daemon], mic: Sequence[Daemon]) -> Iterator[Finding]:
    """Check the images. Several images of one program mean an incomplete rollout or two installations."""
    tags: list[str] = []
    for program, pods in (("nmi", nmi), ("mic", mic)):
        images = {container.image for each in pods if (container := each.container(program)) is not None}
        if len(images) > 1:
            says = f"{program} runs from {len(images)} images: {listed(images)}"
            yield make_finding("versions", Level.WARNING, says, "finish the rollout: kubectl rollout status")
        elif images:
            yield make_finding("versions", Level.OK, f"{program} runs from {listed(images)}")
            tags += filter(None, map(_tag, images))
    if len(tags) == 2 and len(set(tags)) == 2:
        says = f"nmi runs from tag {tags[0]}, mic from tag {tags[1]}"
        yield make_finding(
            "versions", Level.WARNING, says, "bring both to one version: helm upgrade, or the manifests' images"
        )


def _tag(image: str) -> str:
    return image.partition("@")[0].rpartition("/")[2].partition(":")[2]


def flags(
    nmi: Sequence[Daemon], mic: Sequence[Daemon], exceptions: Sequence[AzurePodIdentityException] | None
) -> Iterator[Finding]:
    """Check that the daemons' flags can be read and are consistent. *exceptions*: None if they could not be read."""
    check = "flags"
    nmis, unread_nmi = _read_settings(nmi, nmi_settings)
    mics, unread_mic = _read_settings(mic, mic_settings)
    unread = [*unread_nmi, *unread_mic]
    for why in unread:
        yield make_finding(
            check, Level.WARNING, why, ("correct it: this version's programs do not start with such a flag")
        )
    not_exempt = _mic_not_exempt(nmis, mic, exceptions) if exceptions is not None else ()
    faults = [*_disagreements(nmis, mics), *not_exempt]
    for says, then in faults:
        yield make_finding(check, Level.WARNING, says, then)
    if (nmis or mics) and not faults and not unread:
        yield make_finding(check, Level.OK, "they can be read and are consistent")


def _read_settings(pods: Iterable[Daemon], read: Callable[[Daemon], T]) -> tuple[list[T], list[str]]:
    """Return the readable settings, and one line per reason for the others."""
    settings: list[T] = []
    unread: dict[str, str] = {}
    for each in pods:
        try:
            settings.append(read(each))
        except UsageError as error:
            unread.setdefault(str(error), each.name)
    return settings, [f"pod {name}: {why}" for why, name in unread.items()]


def _disagreements(nmis: Sequence[NmiSettings], mics: Sequence[MicSettings]) -> Iterator[tuple[str, str]]:
    modes = {each.operation_mode for each in nmis}
    if len(modes) > 1:
        yield "NMIs run in different operation modes", "finish the rollout of the DaemonSet"
    forced = {each.force_namespaced for each in nmis}, {each.force_namespaced for each in mics}
    if all(forced) and len(forced[0] | forced[1]) > 1:
        yield (
            "--forceNamespaced differs: NMI may refuse or serve what MIC assigns across namespaces",
            "give NMI and MIC the same --forceNamespaced",
        )
    if any(each.allow_kubenet for each in nmis):
        yield (
            "--allow-network-plugin-kubenet is set: with kubenet a pod can use another's address and get its tokens",
            "use another network plugin, or deny NET_RAW to pods by policy",
        )


def _mic_not_exempt(
    nmis: Sequence[NmiSettings], mic: Sequence[Daemon], exceptions: Sequence[AzurePodIdentityException]
) -> Iterator[tuple[str, str]]:
    """Report if NMI would not exempt MIC from redirection, by NMI's own rules."""
    exempt = exemption_reasons(nmis, exceptions)
    where = {
        each.metadata.namespace
        for each in mic
        if not each.spec.host_network
        and not exempt(Pod(metadata=each.metadata, spec=PodSpec(node_name=each.spec.node_name)))
    }
    if nmis and where:
        served = listed({each.mic_namespace for each in nmis})
        says = (
            f"MIC runs in {listed(where)}, NMI's --MICNamespace is {served}, no exception covers MIC, and NMI "
            "recognizes MIC only as a pod of a ReplicaSet named mic… with MIC's label"
        )
        then = (
            "create an AzurePodIdentityException in MIC's namespace with spec.podLabels of MIC's pods, or set NMI's "
            "--MICNamespace to it, unless MIC has its own credentials"
        )
        yield says, then


def readable_configurations(nmi: Sequence[Daemon]) -> list[NmiConfiguration]:
    """Return the configurations of the NMIs whose flags can be read."""
    read = []
    for each in nmi:
        try:
            cloud = environment_of(each, "nmi").get("AZURE_ENVIRONMENT_FILEPATH", "")
            read.append(NmiConfiguration(nmi_settings(each), f"the flags of pod {each.name}", cloud))
        except UsageError:
            continue  # reported by the check of flags
    return read


def is_managed(nmi: Sequence[Daemon]) -> bool:
    """Return whether all NMIs whose flags can be read run in managed mode."""
    settings, _ = _read_settings(nmi, nmi_settings)
    return bool(settings) and all(each.operation_mode is OperationMode.MANAGED for each in settings)


def is_namespaced(nmi: Sequence[Daemon], mic: Sequence[Daemon]) -> bool:
    """Return whether a flag of NMI or MIC restricts identities to their own namespace."""
    nmis, _ = _read_settings(nmi, nmi_settings)
    mics, _ = _read_settings(mic, mic_settings)
    return any(each.force_namespaced for each in nmis) or any(each.force_namespaced for each in mics)


def mic_policy(mic: Sequence[Daemon]) -> Policy:
    """Return the policy of the first MIC whose flags can be read, without the cluster's own identity."""
    settings, _ = _read_settings(mic, mic_settings)
    return policy_of(settings[0], "") if settings else Policy()

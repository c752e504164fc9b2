"""Whether NMI and MIC count fields in the spellings from before v1.6.0: by their flags, and by MIC's record."""

from collections.abc import Mapping, Sequence
from typing import Final

from mic.startup.type_upgrade import UpgradeRecord
from podidctl.diagnosis.daemons import Daemon
from podidctl.diagnosis.gather import or_failure
from podidctl.diagnosis.input import ReadFailure
from podidctl.doctor.programs import is_managed, mic_settings, readable_configurations
from podidentity.flags import UsageError
from podidentity.kube.client import Client
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, EXCEPTIONS, IDENTITIES

RIGHT: Final = "get on MIC's configmap aad-pod-identity-config"


async def counts_old_field_names(
    client: Client, nmi: Sequence[Daemon], mic: Sequence[Daemon]
) -> Mapping[str, bool | ReadFailure]:
    """Return by plural whether the program that decides by the kind counts such fields. Raises NoResponse."""
    by_nmi = any(each.settings.read_old_field_names for each in readable_configurations(nmi))
    by_mic = by_nmi if is_managed(nmi) else await _by_mic(client, mic)
    return {
        ASSIGNED_IDENTITIES.plural: by_nmi,
        EXCEPTIONS.plural: by_nmi,
        IDENTITIES.plural: by_mic,
        BINDINGS.plural: by_mic,
    }


async def _by_mic(client: Client, mic: Sequence[Daemon]) -> bool | ReadFailure:
    for each in mic:
        try:
            settings = mic_settings(each)
        except UsageError:
            continue
        if settings.read_old_field_names:
            return True
        record = UpgradeRecord(client, settings.namespace, settings.upgrade_config_map, settings.upgrade_key)
        version = await or_failure(record.read())
        return version if isinstance(version, ReadFailure) else version is None
    return ReadFailure("no pod of MIC has readable flags", is_forbidden=False)

"""The exchange of each planned AzureIdentity: the operator's, else the one by which NMI would serve it. Pure."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from nmi.settings import Settings
from nmi.tokens.exchanges import Exchanges
from nmi.tokens.source import PolicyError
from podidctl.evaluation.tokens import exchange_of
from podidctl.migration.federation.schema import Remark
from podidctl.report.text import listed
from podidentity.azure.federation import Exchange
from podidentity.resources import EXCHANGE_ANNOTATION, AzureIdentity


@dataclass(frozen=True)
class ChosenExchange:
    """The exchange of one AzureIdentity, and the remark if NMI would not serve the identity by it."""

    exchange: Exchange
    remark: Remark | None = None


class ExchangeChoice:
    """NMI's rules on all nodes. *override* is the operator's choice for every identity."""

    def __init__(self, nmis: Sequence[Settings], override: Exchange | None) -> None:
        self._nmis = nmis
        self._override = override

    @property
    def default(self) -> Exchange:
        """The exchange of an identity without an annotation."""
        return self._override or next((each.federated_exchange for each in self._nmis), Exchange.DIRECT)

    @property
    def is_given(self) -> bool:
        """Whether the operator chose the exchange."""
        return self._override is not None

    def of(self, identity: AzureIdentity) -> ChosenExchange:
        """Return the exchange of *identity*, and the obstacle if NMI's settings contradict it."""
        nodes: defaultdict[Exchange, list[str]] = defaultdict(list)
        try:
            for each in self._nmis:
                nodes[exchange_of(each, identity)].append(each.node_name)
            if not self._nmis:
                # The settings of no NMI are known, so that whether NMI allows the annotation is unknown, too.
                nodes[Exchanges(by_annotation=True).choose(identity)] = []
        except PolicyError as error:
            refused = Remark(why=error.detail, do="correct it, then run this command again")
            return ChosenExchange(self.default, refused)
        chosen = self._override or next(iter(nodes))
        if len(nodes) > 1:
            by_node = "; ".join(f"{exchange} on {listed(nodes[exchange], 3)}" for exchange in sorted(nodes))
            why = f"NMI's exchange for it differs between nodes: {by_node}"
            return ChosenExchange(chosen, Remark(why=why, do="finish the rollout of NMI's DaemonSet"))
        if self._nmis and chosen not in nodes:
            why = f"this plan is for the exchange {chosen}, and NMI would use {next(iter(nodes))}"
            do = (
                f"before the switch set federated.exchange in the chart's values, or the annotation "
                f"{EXCHANGE_ANNOTATION} with federated.exchangeAnnotation; or omit --exchange"
            )
            return ChosenExchange(chosen, Remark(why=why, do=do))
        return ChosenExchange(chosen)

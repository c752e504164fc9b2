"""The exchange by which an NMI gets tokens of a federated identity, by NMI's own rules. Pure."""

from nmi.settings import Settings
from nmi.tokens.exchanges import Exchanges
from podidentity.azure.federation import BINDING_AUDIENCE, Exchange
from podidentity.resources import AzureIdentity


def exchanges_of(settings: Settings) -> Exchanges:
    """Return the exchanges of an NMI with these *settings*. Its token proxy is not known: AKS sets that in its pod."""
    return Exchanges(settings.federated_exchange, settings.federated_exchange_annotation)


def exchange_of(settings: Settings, identity: AzureIdentity) -> Exchange:
    """Return the exchange for *identity*. Raise PolicyError if NMI refuses the identity's annotation."""
    return exchanges_of(settings).choose(identity)


def audience_of(settings: Settings, exchange: Exchange) -> str:
    """Return the audience of the service account tokens that NMI requests."""
    return BINDING_AUDIENCE if exchange is Exchange.IDENTITY_BINDINGS else settings.federated_audience

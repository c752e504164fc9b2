"""The choice between the two exchanges of a federated identity. Pure; never falls back from one to the other.

Permission to create an AzureIdentity must not choose the exchange unless the operator allows it: the admission policy
of the chart then allows both audiences.
"""

from typing import Final

import msgspec

from nmi.tokens.source import PolicyError
from nmi.tokens.token_proxy import TokenProxy
from podidentity.azure.federation import Exchange
from podidentity.flags import quoted
from podidentity.resources import EXCHANGE_ANNOTATION, AzureIdentity


class Exchanges(msgspec.Struct, frozen=True):
    """The exchanges of a node."""

    default: Exchange = Exchange.DIRECT
    by_annotation: bool = False
    """Whether an annotation of the AzureIdentity may choose the other exchange."""
    proxy: TokenProxy | None = None
    """None without a usable configuration; *proxy_problem* is the reason."""
    proxy_problem: str = ""

    def of(self, identity: AzureIdentity) -> Exchange:
        """Return the exchange of *identity*. Raise PolicyError if it may not have it on this node."""
        chosen = self.choose(identity)
        if chosen is Exchange.IDENTITY_BINDINGS and self.proxy is None:
            raise PolicyError(
                "This identity uses AKS identity bindings, and this node has no usable token proxy.",
                f"no token of AzureIdentity {'/'.join(identity.key)} was requested: {self.proxy_problem}",
            )
        return chosen

    def choose(self, identity: AzureIdentity) -> Exchange:
        """Return the exchange of *identity*, also if the node has no usable token proxy. Raise PolicyError for an
        annotation that is invalid or not allowed.
        """
        name, text = "/".join(identity.key), identity.metadata.annotation(EXCHANGE_ANNOTATION)
        if text and text not in set(Exchange):
            raise PolicyError(
                "The annotation of this identity's AzureIdentity for the exchange is invalid; its owner must correct "
                "it.",
                f"AzureIdentity {name} has the annotation {EXCHANGE_ANNOTATION} with {quoted(text)}: write direct or "
                f"identityBindings, or remove it",
            )
        chosen = Exchange(text) if text else self.default
        if chosen is not self.default and not self.by_annotation:
            raise PolicyError(
                "This identity's AzureIdentity chooses an exchange that this node does not allow "
                "(--federated-exchange-annotation).",
                f"AzureIdentity {name} chooses {chosen} by the annotation {EXCHANGE_ANNOTATION}, and this node uses "
                f"{self.default}: remove the annotation, or set federated.exchangeAnnotation in the chart's values",
            )
        return chosen


DIRECT_ONLY: Final = Exchanges()
"""The exchange without any setting."""

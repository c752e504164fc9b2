"""Messages for EPERM: without a capability a read fails, too; if only the write fails, a kernel program refuses it."""

from typing import Final

NOT_PERMITTED: Final = (
    "the rules of netfilter may not be changed here: give NMI the capability NET_ADMIN and run it as root on the "
    "host's network, or start it with --redirect=none if pods reach it in another way"
)
REFUSED: Final = (
    "the kernel refused a rule that NMI may write by its capabilities: on a node with eBPF host routing AKS's kernel "
    "program azure-block-iptables refuses rules in the host's network; use --redirect=cilium with a "
    "CiliumLocalRedirectPolicy (chart value nmi.redirect.backend=cilium), or disable eBPF host routing in AKS "
    "(acceleration mode None), and do not bypass the program; on another node find the security module that refuses"
)

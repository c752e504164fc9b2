"""NMI's chains of nftables come before those of other programs at the same hook. Excluded: their effect on packets."""

from nmi.node.rules import RedirectSpec

NAT_DST = -100
"""`NF_IP_PRI_NAT_DST` of the kernel, `dstnat` in nft: the priority of iptables, and of kube-proxy in nftables mode."""
FILTER = 0
"""`NF_IP_PRI_FILTER`."""
TO = RedirectSpec("169.254.169.254", 80, "127.0.0.1", 2579)


def test_the_redirect_comes_before_the_translations_of_iptables_and_kube_proxy() -> None:
    base = TO.redirect.base
    assert (base.type, base.hook) == ("nat", "prerouting")
    assert base.priority < NAT_DST


def test_the_reject_comes_before_the_filters_of_other_programs() -> None:
    base = TO.reject.base
    assert (base.type, base.hook) == ("filter", "forward")
    assert base.priority < FILTER

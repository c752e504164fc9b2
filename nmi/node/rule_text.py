"""Parsing of the rules that iptables prints (iptables-save, iptables -S). Pure: text in, values out."""

import itertools
import shlex
from collections.abc import Iterator

_PROTOCOLS = {"6": "tcp", "17": "udp"}
_ADDRESS_FLAGS = frozenset(("-s", "-d"))


def rules_of(text: str, chain: str) -> list[str]:
    """Return the rules that *text* appends to *chain*, in order, without "-A" and the chain's name."""
    start = f"-A {chain} "
    return [line.removeprefix(start).strip() for line in text.splitlines() if line.startswith(start)]


def all_rules(text: str) -> Iterator[tuple[str, str]]:
    """Return each rule in *text* as chain and rule, in order."""
    for line in text.splitlines():
        if line.startswith("-A "):
            chain, _, rule = line.removeprefix("-A ").partition(" ")
            yield chain, rule.strip()


def chains_in(text: str) -> set[str]:
    """Return the chains that *text*, in the form of iptables-save, declares."""
    return {line[1:].split(" ", 1)[0] for line in text.splitlines() if line.startswith(":")}


def words(rule: str) -> list[str]:
    """Return the words of *rule*, without quotes and comments, with forms that differ between versions unified.

    A rule that cannot be split (because of another program's comment) is returned as a single word.
    """
    try:
        split = shlex.split(rule)
    except ValueError:
        return [rule]
    unified: list[str] = []
    left = iter(split)
    for word in left:
        if word == "--comment":
            next(left, None)
            if unified[-2:] == ["-m", "comment"]:
                del unified[-2:]
        elif unified and unified[-1] == "-p":
            unified.append(_PROTOCOLS.get(word, word))
        elif unified and unified[-1] in _ADDRESS_FLAGS and "/" not in word:
            unified.append(f"{word}/32")
        else:
            unified.append(word)
    return unified


def normalized(rule: str) -> str:
    """Return *rule* in a form that can be compared."""
    return " ".join(words(rule))


def leads_to(rule: str, chain: str) -> bool:
    """Return whether *rule* jumps or goes to *chain*."""
    if chain not in rule:
        return False  # fast path for almost all of the ten thousand rules of a large node
    return any(verb in ("-j", "-g") and target == chain for verb, target in itertools.pairwise(words(rule)))

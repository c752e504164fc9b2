"""The cases of the suite as data. `loops` and `disturbances` run them."""

from dataclasses import dataclass
from typing import Final

from benchmarks.load import requests
from benchmarks.load.generator import Request

PODS: Final = 250
"""A full node."""
FEW, MANY = 1, 10_000
"""Sizes of the index that are compared with a full node."""


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop."""

    key: str
    title: str
    description: str
    connections: int
    requests: tuple[Request, ...] = (requests.plain(),)
    close: bool = False
    quick: bool = False
    """Whether a quick run includes it."""
    status: int = 200
    """Of NMI's responses; the others send the bytes of a token."""


CONTROL: Final = Load("control", "keep-alive c=32", "NMI measured as if it were two servers", 32, quick=True)

ON_A_FULL_NODE: Final = (
    Load(
        "keep-alive-1",
        "keep-alive c=1",
        "218-byte request, 1.7 kB answer, ready",
        1,
        quick=True,
    ),
    Load(
        "keep-alive-32",
        "keep-alive c=32",
        "the same on 32 connections of 32 pods",
        32,
        quick=True,
    ),
    Load(
        "keep-alive-256",
        "keep-alive c=256",
        "the same on 256 connections of 250 pods",
        256,
    ),
    Load(
        "close-32",
        "connection per request c=32",
        "32 clients, a new connection for each request, all pods round-robin",
        32,
        close=True,
        quick=True,
    ),
    Load(
        "sdks-32",
        "SDKs' requests c=32",
        "as seven SDKs send them, with a new request id where the SDK sends one",
        32,
        requests=requests.sdks(),
    ),
    Load(
        "no-header-32",
        "no header, 400, c=32",
        "token requests without Metadata: true, which NMI refuses",
        32,
        requests=(requests.without_header(),),
        status=400,
    ),
    Load(
        "no-resource-32",
        "no resource, 400, c=32",
        "token requests that name no resource",
        32,
        requests=(requests.without_resource(),),
        status=400,
    ),
    Load(
        "no-path-32",
        "unknown path, 404, c=32",
        "a path that NMI does not serve",
        32,
        requests=(requests.unknown_path(),),
        status=404,
    ),
    Load(
        "instance-32",
        "instance metadata c=32",
        "the instance document, cached",
        32,
        requests=(requests.instance_metadata(),),
    ),
)
ONE_POD: Final = Load("pods-1", "1 pod c=32", "32 connections of the node's only pod", 32)
MANY_PODS: Final = Load(
    "pods-10000",
    "10,000 pods c=32",
    "10,000 pods in the index, 32 send requests; in the same rounds as 1 pod",
    32,
)
MANY_PODS_CLOSE: Final = Load(
    "close-10000",
    "10,000 pods, close c=32",
    "connection per request, 256 of the 10,000 pods round-robin",
    32,
    close=True,
)
BEHIND_THE_RULE: Final = (
    Load(
        "rule-32",
        "nat rule, c=32",
        "through the nat rule in network namespaces; NMI reads the original destination",
        32,
    ),
    Load("rule-close-32", "nat rule, close c=32", "the same with a connection per request", 32, close=True),
)
TO_THE_NODE: Final = (
    Load(
        "rule-node-32",
        "nat rule, target node, c=32",
        "the rule leads to the node's address (--redirect-target=node), for nginx to loopback",
        32,
    ),
    Load("rule-node-close-32", "nat rule, node, close c=32", "the same with a connection per request", 32, close=True),
)

RATES: Final = (1_000, 10_000, 40_000)
"""Requests per second in the open loop."""
RATE_CONNECTIONS: Final = 64
QUICK_RATES: Final = (10_000,)


@dataclass(frozen=True, slots=True)
class Disturbance:
    """A disturbance during an open loop of ready responses."""

    key: str
    title: str
    text: str
    quick: bool = False
    own: str = ""
    """Title of the row about the other clients, if there is one."""


BACKGROUND_RATE: Final = 5_000
BACKGROUND_PODS: Final = 99
NOTHING: Final = Disturbance(
    "nothing", "nothing else", "5,000 requests a second of 99 pods, and nothing else", quick=True
)
RELIST: Final = Disturbance("relist", "re-lists of 250 pods", "all watches end with 410 every 1.5 s", quick=True)
EVENTS: Final = Disturbance(
    "events", "1,000 watch events/s", "heartbeats of pods and annotations of assigned identities"
)
SCRAPES: Final = Disturbance("scrapes", "a scrape each second", "Prometheus reads /metrics once a second")
NOISY: Final = Disturbance(
    "noisy",
    "1 noisy pod of 100",
    "another pod: 200 connections in a closed loop and 50 clients that close, without a rate limit",
)
MISSES: Final = Disturbance(
    "misses", "misses during hits", "8 requests a second for a token of IMDS, which takes 50 ms", own="a miss itself"
)
RENEWALS: Final = Disturbance(
    "renewals",
    "renewals under load",
    "8 cached tokens a second are fetched again (bypass_cache=true), which takes IMDS 50 ms",
    own="a renewal itself",
)
PASSED_ON: Final = Disturbance(
    "passed-on",
    "instance metadata",
    "4 requests a second, each for another query, that are passed on to IMDS",
    own="a passed-on request itself",
)
BACKGROUND: Final = (NOTHING, RELIST, EVENTS, SCRAPES, NOISY, MISSES, RENEWALS, PASSED_ON)

"""The emulated API server in one process: the part of Kubernetes that the project's programs and kubectl use.

Its modules, from the bottom layer up: `history` stores objects, revisions and a bounded log of changes. `kinds`
describes the kinds. `admission`, `field_types`, `schemas` and `patching` are functions on documents. `verbs` combines
them, and `store` is the interface for tests and benchmarks in this process. `requests`, `listing`, `watching`,
`responses`, `handling` and `discovery` implement HTTP, and `server` listens.

Of the controllers it has only those that clients require: the content of a deleted namespace is deleted, and a new
namespace gets its default service account. Its behaviour was determined by requests to a real API server. Contract
tests run against both.
"""

from podidentity_sandbox.kubeapi.server import KubeApi

__all__ = ["KubeApi"]

"""An API server in one process: the part of Kubernetes that the project's programs and kubectl use.

What lives here, from the inside out: `history` keeps objects, revisions and a bounded log of changes; `kinds` and
`definitions` say which kinds exist; `admission`, `schemas`, `patching` and `selectors` are plain functions over
documents; `store` joins them into the verbs, and is what other emulators (kubelet, scheduler) call in process;
`requests`, `handling`, `watching`, `tables`, `discovery` and `openapi` implement HTTP; `server` listens.

What never does: controllers beyond the few that clients cannot do without (a namespace's content goes with it and
its default service account comes with it), authorization, other kinds, another version of anything. Behaviour that
was looked up was looked up by asking a real API server; contract tests run against both.
"""

from podidentity_sandbox.kubeapi.server import KubeApi

__all__ = ["KubeApi"]

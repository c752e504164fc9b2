"""Tokens: the broker (cache, single flight, refresh ahead), the governor towards IMDS, and the sources by type.

`broker` owns the tokens in `cache`, the fetches in `flight` and the packets of `transfer`, which passes tokens to a
successor. `source` defines what a source gets and returns. There are three: `user_assigned` calls IMDS, which
`governor` limits and `breaker` suspends; `service_principal` and `federated` sign in through `sign_ins`, with the
credentials of `secrets` and `assertions`. `endpoints` decides which Secrets and endpoints they may use, and
`token_proxy` which exchange. `sign_in` has the values of a sign-in; `entra` sends it, and `entra_loader` imports
`entra` when it is needed. `fair_queue` and `namespace_table` share limits between pods and between namespaces. No
module here reads a pod's HTTP request, or decides which identity the pod may have.
"""

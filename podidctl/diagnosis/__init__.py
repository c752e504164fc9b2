"""Diagnosis of one pod: reads the state around it and applies NMI's own rules. Makes no changes.

`gather` reads the cluster and Azure into a `DiagnosisInput` (`input`), with `daemons` for the running NMI and MIC,
`nmi_log` for NMI's logged decisions and `access_reviews` for the permissions of service accounts. `decision` predicts
NMI's decision. `bindings` selects the pod's bindings, `service_accounts` checks the pod's service account for federated
identities, `token_source` describes the endpoint that NMI would ask for the token, and `nmi_availability` checks that
an NMI can respond.
"""

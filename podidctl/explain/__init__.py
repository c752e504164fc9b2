"""`podidctl explain pod`: each link between a pod and its token, the first broken link, and the next action.

`explanation` turns a `DiagnosisInput` (`podidctl.diagnosis`) into the values of `schema`: `bindings` for the pod's
label, `assignments` for MIC's AzureAssignedIdentities, `service_account` and `hosts` for the rest, `answer` for the
summary. `show` prints them and `command` defines the command.
"""

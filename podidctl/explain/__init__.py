"""`podidctl explain pod`: each link between a pod and its token, what is wrong at the first that is broken, what to do.

`chain` makes of the facts about the pod (`podidctl.diagnosis`) the values in `shapes`, with `bound` for what its label
leads to, `assigned` for what MIC has made of that, `accounts` for its service account, `hosts` for its node; `show`
prints them; `command` is the way in.
"""

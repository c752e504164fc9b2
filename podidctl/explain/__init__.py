"""`podidctl explain pod`: each link between a pod and its token, what is wrong at the first that is broken, what to do.

`chain` makes of the facts about the pod (`podidctl.inquiry`) the values in `shapes`; `show` prints them; `command` is
the way in.
"""

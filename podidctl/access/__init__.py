"""Access review: which pod can use which Azure identity, and how far one compromised pod or node reaches. Read-only.

`gather` reads each kind once, with the fields of `projections`. `review` computes the `AccessReview` (`schema`) from
these facts without I/O: `grants` by MIC's and NMI's own rules, `host_access` for pods that bypass NMI, `hosts` for the
attached identities, `targets` and `subjects` for the permissions to change any of that, `blast_radius` for the reach of
one pod or node, `unknown_parts` for what could not be read. `scope` restricts a review to one object. `outputs` prints
it, with the graph of `dot` and the page of `html`, `differences` compares two reviews, and `policy` tests a review
against the rules of a file.
"""

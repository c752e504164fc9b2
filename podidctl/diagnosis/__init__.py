"""One pod, asked about: `gather` reads what the cluster and Azure say, `verdict` says by NMI's own rules what it gets.

`accounts` tells what a pod proves itself by where its identity is federated, and `reviews` what a program may do.
`bound` tells which bindings are meant for it, and `asking` whom NMI then asks for the token, or why nobody. `facts` are
the values between, `daemons` what is known of the NMI and MIC that run there. Reads only.
"""

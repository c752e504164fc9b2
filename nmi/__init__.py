"""NMI, the node daemon: may the pod at this address have this token?

`app` puts everything together; `server` turns bytes into questions and answers into bytes; `identity` knows which pod
asks and what it may have; `tokens` gets tokens and keeps them; `node` does the plumbing (nat rule, sysctl).
"""

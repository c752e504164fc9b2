"""One pod, asked about: `gather` reads what the cluster and Azure say, `verdict` says by NMI's own rules what it gets.

`facts` are the values between the two, `daemons` what is known of the NMI and MIC that run there. Reads only.
"""

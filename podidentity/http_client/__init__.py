"""A small HTTP/1.1 client for the requests of a process whose memory matters (docs/architecture.md, "Memory").

aiohttp takes 10 MiB. NMI needs little of it: requests to the API server and to IMDS, without proxy, cookies, redirects
or compression. The parser of the responses is httptools (llhttp), the connections are uvloop's, and aiohappyeyeballs
chooses the address. `podidentity.kube.sessions` uses aiohttp where more is needed.
"""

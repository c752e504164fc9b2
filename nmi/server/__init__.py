"""The general lane: the full HTTP grammar, routes, handlers, the IMDS proxy, and the only file with status codes.

It receives, byte for byte, every request that the fast lane (`_native.lane`) did not answer. From the bytes inwards:

    general         one connection: reads bytes, writes responses in order, owns the request that it is answering
    reading         bytes -> whole requests, with limits that count across reads; `head` contains the rules of the head
    target          request target -> normal form -> destination; pure, written to be read as a security argument
    parameters      query -> token request; pure
    request         one request, and the `Call` that waits for its response, with the ids under which logs contain it
    handlers        request -> outcome, by a handler of `token_path` or `passthrough`
    token_path      the handlers of the token path (in the order of checks that SDKs rely on) and of /host/token
    loop_detection  the mark of NMI's own requests to IMDS, and their refusal if a redirect returns them to NMI
    outcomes        counts and logs each response or refusal exactly once
    passthrough     the handler of paths that IMDS answers, and the proxy, which builds requests from parsed parts
    responses       reasons -> status codes, and the wire format of responses; no other file defines a status code
    metrics         the request histogram, refusals and limits, with label values from closed sets
    decisions       one log line per decision, with summaries of repeats; `nmi.pod_events` reports refusals as Events
    server          the lane, the tasks of waiting requests, and the shutdown

This package does not decide whether a pod may have a token (`nmi.identity`, `nmi.token_service`), fetches none
(`nmi.tokens`), and writes through the lane's connection, never to a socket.
"""

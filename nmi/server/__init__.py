"""The general lane: the full HTTP grammar, routes, handlers, pass-through, and the only file with status codes.

It is handed every request that the fast lane (`_native.lane`) did not answer, byte for byte, and refuses what deserves
it. From the bytes inwards:

    general      one connection: bytes in, answers out, in order; owns nothing but the request it is answering
    reading      bytes -> whole requests, with limits that count across reads; `head` and `body` hold its strict rules
    target       request target -> its one normal form -> where it may go; pure, meant to be read as a safety argument
    parameters   query -> what the token path may be asked; pure
    call         who asks, and the ids by which a request is found again in logs
    handlers     a request -> an outcome: by `token_path` (in the order of checks that SDKs rely on), `host_path` or
                 `proxied_path`; `granting` says what an issuer is
    outcomes     an answer or a refusal -> counted and logged, exactly once
    passthrough  what is proxied to IMDS, rebuilt from parsed parts
    responses    reasons -> status codes, and how an answer looks on the wire; no other file here knows a status code
    measures     the request histogram and what bounds requests, with label values from closed sets
    decisions    one log line per decision, repeats summed up; who else is told of a refusal is `nmi.pod_events`
    server       puts lane, tasks and shutdown together

It never decides who may have a token (`nmi.identity`, `nmi.issuer`), never fetches one (`nmi.tokens`), and writes
through the lane's connection, never to a socket.
"""

"""The HTTP API, for producers and workers that are not Python, and for what people look at.

`orchestrator run --http HOST:PORT` serves it from a child process of the replica (`process`), with
a pool of connections of its own: neither the interpreter's lock nor the API's connections are
shared with the leader, which depends on nothing here. Each replica may serve; none keeps state that
another one lacks, but for who is logged in to its dashboard.

    app        what is served: routers, and what surrounds them
    limits     sizes, times and numbers, before a request reaches a route
    auth       who asks: bearer tokens, scopes, the org a token is bound to
    problems   what goes wrong, as application/problem+json
    api        a router for each noun
    dashboard  pages for people
    process    the child process, and who looks after it
"""

"""The data plane: authenticate, admit, route, stream and meter inference requests; no database.

One process of uvloop protocols without a framework. `client` speaks with clients, `upstream` with
engines; `calls` knows what a request asks for. `exchange` is the client's side of one inference
request and `attempt` its engine's side. `admission` keeps limits, `metering` sees to it that each
request is counted once, `control_plane` keeps in touch and passes every other path on.
"""

"""The data plane: authenticate, route, stream and meter inference requests; no database.

One process of uvloop protocols without a framework. `server` speaks with clients, `upstream` with
engines, `exchange` is the life of one inference request between them, `forward` passes every
other path on to the control plane, `metering` sees to it that each request is counted once.
"""

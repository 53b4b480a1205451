"""Endpoints inside an application, without a server: `serve_in_process`, and the applications that mount them.

`edge.py` is the edge itself; `core.py` runs what a worker runs, once for the process; `sources.py` says what an endpoint serves;
`runners.py` keeps its runner processes; `mounts.py` answers requests that an application's server (`asgi.py`, `wsgi.py`) has read
([why](docs/decisions/0024-embedded-edge.md)).
"""

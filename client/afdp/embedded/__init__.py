"""Real servers from wheels, started as our own children: what `afdp dev` and the tests stand on.

One file per server, `postgres.py` and `openbao.py`; `process.py` has what any child process needs. Each server keeps
everything it owns in one data folder, listens on 127.0.0.1 only, and dies with its parent.
"""

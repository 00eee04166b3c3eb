"""Monitoring and auditing transparency logs, ours or not (C2SP tlog-tiles, Rekor v2).

It needs no service, and believes nothing that a log says but what its key has signed and the hashes lead to.
"""

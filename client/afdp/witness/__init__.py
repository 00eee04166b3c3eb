"""A witness of transparency logs (C2SP tlog-witness): cosigns what goes on from what it has seen, and nothing else.

It stands by itself: any log that speaks the protocol, a key, a file of SQLite.
"""

"""The trust root's TUF repository, by python-tuf: what its offline roles have signed, and what its online roles sign.

Importing it takes a third of a second, so whoever may do without imports it late. Verifying a receipt needs none of it.
"""

"""Policies in Cedar: read, checked against what the notary tells them, and asked. Needs no service and no network."""

"""The REST front of the notary: translates HTTP to gRPC by descriptor, and decides nothing.

What it serves follows from the protos: routes from `google.api.http`, decoders and encoders compiled once from the
message descriptors, the OpenAPI document and its page from the same descriptors and their comments.
"""

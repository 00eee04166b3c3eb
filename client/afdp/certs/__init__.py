"""A certificate authority in a folder, for development and small deployments: `afdp certs`."""

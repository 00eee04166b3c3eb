"""A token behind PKCS #11: how it is reached (`sessions`), how keys stand in it (`pairs`), its keys (`keyring`)."""

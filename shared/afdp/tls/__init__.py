"""TLS 1.3 for whatever leaves a process: certificates from files that may change, names, revocations."""

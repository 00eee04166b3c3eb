"""The only holder of keys: signs in-toto statements and checkpoints, each by its own RPC and key."""

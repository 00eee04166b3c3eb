"""HashiCorp Vault or OpenBao: how we are let in (`login`), how it is asked (`access`), its keys (`keyring`)."""

"""Who a credential belongs to: bearer tokens of OpenID providers, tokens of workloads, client certificates."""

"""How much a caller may do: rates, and what is remembered of addresses that fail."""

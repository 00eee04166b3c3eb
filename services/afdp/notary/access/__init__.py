"""Who calls, and what that one may do: the one place where it is decided."""

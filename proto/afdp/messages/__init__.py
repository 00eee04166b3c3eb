"""The generated messages, under paths that people can type."""

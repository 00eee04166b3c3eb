"""The version of the distribution that is running."""

from importlib.metadata import version

VERSION = version("afdp-notary")

"""Import this before grpc: gRPC's library has no setting for TLS 1.3 alone.

It reads the suites of TLS 1.2 from the environment when it is loaded, and cannot be given none. The one named here
needs a pre-shared key, which nobody has: so no handshake of TLS 1.2 succeeds, as a server or as a client. The suites of
TLS 1.3 are not in that list and stay as they are (RFC 8446, appendix B.4).

Nor does its library get ready for forks, which has crashed children between fork and exec: whoever forks here runs
another program.
"""

from __future__ import annotations

import os
import sys

_NAME = "GRPC_SSL_CIPHER_SUITES"
_ONLY_WITH_A_SHARED_KEY = "ECDHE-PSK-CHACHA20-POLY1305"

_in_time = "grpc" not in sys.modules or os.environ.get(_NAME) == _ONLY_WITH_A_SHARED_KEY
os.environ[_NAME] = _ONLY_WITH_A_SHARED_KEY
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"


def is_modern() -> bool:
    """Whether gRPC in this process speaks TLS 1.3 only."""
    return _in_time

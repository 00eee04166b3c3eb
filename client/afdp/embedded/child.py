"""The last step before a server starts: drop privileges, tie the process to its parent, become the server.

Run as a script in a fresh interpreter, because the same calls between fork and exec of a threaded parent can deadlock:

    python -I -S child.py PARENT_PID DEATH_SIGNAL UID GID COMMAND [ARGUMENT…]

UID and GID are -1 to stay who we are. The order matters: a change of credentials clears the parent-death signal
(prctl(2), PR_SET_PDEATHSIG), so it is asked for after it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def _die_with_parent(parent: int, death_signal: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before it could be watched
        sys.exit("the parent process is gone")


def _become(uid: int, gid: int) -> None:
    if uid < 0:
        return
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def main(arguments: list[str]) -> None:
    """Replace this process by the command, or exit 127 with the reason on standard error."""
    parent, death_signal, uid, gid = (int(argument) for argument in arguments[:4])
    command = arguments[4:]
    # A background job of a shell inherits SIGINT ignored, and so would every server below it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.umask(0o077)
    _become(uid, gid)
    _die_with_parent(parent, death_signal)
    try:
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted here
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Starts a program that ends when its parent does.

Run as a script between the supervisor and the program: it asks the kernel to send SIGTERM when the parent
dies, then becomes the program (same pid). A script and not a ``preexec_fn``, which may deadlock in a
process that has threads. It imports nothing of Sibyl and knows nothing of Redis.

The kernel's request exists on Linux only. Elsewhere (macOS) the program outlives a parent that was killed
with -9, and whoever starts next has to deal with it (see ``embedded.py``).

The kernel watches the parent's *thread* (prctl(2), PR_SET_PDEATHSIG): start programs from a thread that
lives as long as the process, such as the main one.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def ending_with_parent(*command: str) -> list[str]:
    """Return ``command`` so wrapped that it gets SIGTERM when this process dies. It begins with a path."""
    # -I and -S: neither site packages nor PYTHON* variables, which could interfere and cost time.
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main(parent_pid: int, command: list[str]) -> None:
    """Become ``command``; exit with a line on stderr when that is impossible or the parent has gone."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
        # Ask, then look: a parent that died before the request would never be reported.
        if os.getppid() != parent_pid:
            sys.exit("The parent ended before its program started.")
    os.umask(0o077)
    os.putenv("LC_ALL", "C")  # Redis 7 and newer may refuse to start in a locale that the machine does not have
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

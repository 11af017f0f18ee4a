"""Stands for a process that `forking` forks: hands over its descriptors, passes signals on, and ends as that ends.

Run with ``-I -S``, and importing next to nothing: starting it is all that it costs.
"""

import _socket
import os
import signal
import sys

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """``launch.py ADDRESS`` and the words of the interpreter's command line."""
    address, *words = sys.argv[1:]
    conn = _socket.socket(_socket.AF_UNIX)
    conn.connect(address)
    for sign in _PASSED_ON:
        signal.signal(sign, lambda sign, _: conn.send(bytes([sign])))
    environment = [name + b"=" + value for name, value in os.environb.items()]
    directory = os.fsencode(os.getcwd())  # noqa: PTH109  # pathlib costs as much as all the rest
    parts = [directory, str(len(words)).encode(), *map(os.fsencode, words), *environment]
    request = b"\0".join(parts)
    descriptors = b"".join(fd.to_bytes(4, sys.byteorder) for fd in (0, 1, 2))
    conn.sendmsg([len(request).to_bytes(4, "big")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)])
    conn.sendall(request)
    # Nothing, if the process that is forked from has gone.
    status = int.from_bytes(conn.recv(4) or b"\0\0\0\1", "big", signed=True)
    if status < 0:
        if -status in _PASSED_ON:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


main()

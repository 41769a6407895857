"""Ports of the loopback interface that nobody uses."""

import socket

_given: set[int] = set()


def free_port() -> int:
    """A port that was free a moment ago, and that this run has not given to anybody else."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port

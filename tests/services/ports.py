"""Ports of the loopback interface that nobody uses."""

import random
import socket

_CHOICES = range(10_000, 32_000)
"""Below those that systems give to clients: one of these could become a client's before its server listens."""

_given: set[int] = set()
_chance = random.SystemRandom()  # other runs choose too


def free_port() -> int:
    """A port that was free a moment ago, and that this run has not given to anybody else."""
    while True:
        port = _chance.choice(_CHOICES)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: what only lingers is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

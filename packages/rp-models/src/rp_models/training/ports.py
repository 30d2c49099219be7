"""Where processes of one machine meet; importing this does not import torch."""

import random
import socket
from contextlib import suppress


def free_port() -> int:
    """A port that is free now, and none of those that outgoing connections take in the meantime."""
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with suppress(OSError), socket.socket() as found:
            found.bind(("127.0.0.1", port))
            return port

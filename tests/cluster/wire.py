"""A wire between two network interfaces that delays or loses what it carries, for kernels without netem.

python -m tests.cluster.wire NEAR FAR DELAY_S LOSS     delay each way; loss is a share of the packets
"""

from __future__ import annotations

import random
import select
import socket
import sys
import time
from collections import deque

_SOL_PACKET, _VNET_HEADER, _IGNORE_OUTGOING = 263, 15, 23
"""Of linux/if_packet.h. With its header, a packet keeps what a virtual interface leaves undone: checksums, cutting."""
_ALL = 3
_PACKET_BYTES = 70_000
_BUFFER_BYTES = 8 * 2**20


def _attached(interface: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
    for option in (_VNET_HEADER, _IGNORE_OUTGOING):
        end.setsockopt(_SOL_PACKET, option, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    end.bind((interface, 0))
    return end


def main() -> None:
    near, far = (_attached(name) for name in sys.argv[1:3])
    delay_s, loss = (float(argument) for argument in sys.argv[3:5])
    other = {near: far, far: near}
    carried: deque[tuple[float, socket.socket, bytes]] = deque()
    while True:
        left_s = max(0.0, carried[0][0] - time.monotonic()) if carried else None
        for end in select.select(list(other), [], [], left_s)[0]:
            packet = end.recv(_PACKET_BYTES)
            if random.random() >= loss:
                carried.append((time.monotonic() + delay_s, other[end], packet))
        while carried and carried[0][0] <= time.monotonic():
            _, end, packet = carried.popleft()
            end.send(packet)


if __name__ == "__main__":
    main()

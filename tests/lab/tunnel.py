#!/usr/bin/env python3
"""tests/lab/tunnel.py NAME NEAR FAR PORT      a link that loses, delays and narrows what goes over it (root)

Makes the network device NAME with the address NEAR. Whatever is sent to FAR comes back to NEAR as if FAR had sent it: who listens at NEAR is
reached at FAR, over this link. It ends with its input, and takes the device along. Lines of its input say what the link does from then on, each
answered by the same line:

loss SHARE       of packets that are lost, by chance
largest BYTES    longer packets are lost without a word
rate BYTES       a second, either way, behind a queue of two seconds
delay SECONDS    for which a packet is on its way
oneway 1         nothing comes back from the port PORT at NEAR
"""
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
QUEUE = 2.0


def opened(name, near):
    device = os.open('/dev/net/tun', os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack('16sH', name.encode(), IFF_TUN | IFF_NO_PI))
    for line in (['addr', 'add', near + '/30', 'dev', name], ['link', 'set', name, 'up']):
        subprocess.run(['ip', *line], check=True)
    return device


def main(name, near, port):
    device = opened(name, near)
    rules = {'loss': 0.0, 'largest': 65535.0, 'rate': 0.0, 'delay': 0.0, 'oneway': 0.0}
    chance, free, waiting, number = random.Random(1), {True: 0.0, False: 0.0}, [], 0
    print('up', flush=True)
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([device, 0], [], [], pause)
        now = time.monotonic()
        if 0 in ready:
            said = os.read(0, 4096).decode()
            if not said:
                return
            for line in said.splitlines():
                rule, value = line.split()
                rules[rule] = float(value)
                print(line, flush=True)
        if device in ready:
            packet = os.read(device, 65536)
            head = (packet[0] & 15) * 4
            is_tcp = packet[0] >> 4 == 4 and packet[9] == 6
            towards = is_tcp and packet[head + 2:head + 4] == struct.pack('!H', port)
            lost = not is_tcp or len(packet) > rules['largest'] or chance.random() < rules['loss']
            due = now
            if rules['rate']:
                due = max(now, free[towards])
                lost = lost or due - now > QUEUE
                if not lost:
                    free[towards] = due = due + len(packet) / rules['rate']
            if not lost and not (rules['oneway'] and not towards):
                number += 1
                # With both addresses exchanged all checksums stay right.
                turned = packet[:12] + packet[16:20] + packet[12:16] + packet[20:]
                heapq.heappush(waiting, (due + rules['delay'], number, turned))
        while waiting and waiting[0][0] <= time.monotonic():
            os.write(device, heapq.heappop(waiting)[2])


main(sys.argv[1], sys.argv[2], int(sys.argv[4]))

"""A long-distance link on one machine: two network namespaces, a round trip and a rate between them. Takes root."""
import pathlib, subprocess, sys

from lab import run

MASTER, TARGET = "198.18.77.1", "198.18.77.2"
HERE = pathlib.Path(__file__).resolve().parent
QUEUE_MS = 60


class Link:
    """Made by `up`, taken away by `down`. Commands are put on a side by the prefixes `master` and `target`.

    Where the kernel has netem, it delays a veth pair; else a relay in user space (wanlink.c) joins two TUN devices. Neither
    namespace has a way out, so nothing leaves the machine.
    """

    def __init__(self, folder, round_trip_ms, rate_mbit):
        self.folder, self.round_trip_ms, self.rate_mbit = folder, round_trip_ms, rate_mbit
        self.names = [f"blat-bench-{side}-{round_trip_ms}" for side in ("m", "t")]
        # Not `ip netns exec`: that copies the table of mounts at every call.
        self.master, self.target = (["nsenter", f"--net=/run/netns/{name}"] for name in self.names)
        self.relay = None

    def up(self):
        self.down()
        for name in self.names:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        if self.kernel_delays():
            self.join_by_netem()
        else:
            self.join_by_relay()
        for name, own, other in zip(self.names, (MASTER, TARGET), (TARGET, MASTER)):
            run("ip", "-n", name, "addr", "add", own, "peer", other, "dev", "wan0")
            run("ip", "-n", name, "link", "set", "wan0", "up")

    def kernel_delays(self):
        netem = ["tc", "-n", self.names[0], "qdisc", "replace", "dev", "lo", "root", "netem", "delay", "0ms"]
        if subprocess.run(netem, stderr=subprocess.DEVNULL).returncode:
            return False
        run("tc", "-n", self.names[0], "qdisc", "del", "dev", "lo", "root")
        return True

    def join_by_netem(self):
        run("ip", "link", "add", "wan0", "netns", self.names[0], "type", "veth", "peer", "name", "wan0", "netns", self.names[1])
        for name in self.names:
            run("tc", "-n", name, "qdisc", "add", "dev", "wan0", "root", "netem", "delay", f"{self.round_trip_ms / 2}ms",
                "rate", f"{self.rate_mbit}mbit", "limit", "20000")

    def join_by_relay(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        relay = self.folder / "wanlink"
        run("cc", "-O2", "-o", relay, HERE / "wanlink.c")
        self.relay = subprocess.Popen([relay, *self.names, str(self.round_trip_ms * 500), str(self.rate_mbit), str(QUEUE_MS)],
                                      stdout=subprocess.PIPE, text=True)
        if self.relay.stdout.readline() != "up\n":
            sys.exit("bench: the link's relay did not come up (its words are above); is there a /dev/net/tun?")

    def down(self):
        if self.relay:
            self.relay.terminate()
            self.relay.wait()
            self.relay = None
        for name in self.names:
            if pathlib.Path("/run/netns", name).exists():
                run("ip", "netns", "del", name)

    def carried(self):
        """Bytes that the master's side has sent and received so far, headers and all."""
        for line in run(*self.master, "cat", "/proc/net/dev").splitlines():
            device, _, counts = line.partition(":")
            if device.strip() == "wan0":
                counts = counts.split()
                return int(counts[8]), int(counts[0])
        sys.exit("bench: the link is gone")

"""What one thing cost: time, processor time at both ends, bytes on the link, memory."""
import os, pathlib, resource, subprocess, sys, threading, time

from lab import peak_memory

TICK = os.sysconf("SC_CLK_TCK")
# What every tool here shares is nobody's own memory, and a shell that only starts others is not the tool either.
NOT_THE_TOOL = {"ssh", "sshd", "sshd-session", "sh", "dash", "bash", "nsenter"}


def processes():
    """Every process: pid -> (name, parent, processor seconds, of its ended children too)."""
    seen = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = pathlib.Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            name, _, rest = text.partition("(")[2].rpartition(")")
            fields = rest.split()
            seen[int(entry)] = (name, int(fields[1]), sum(map(int, fields[11:15])) / TICK)
    return seen


def descendants(roots, seen):
    """The processes that have one of these among their ancestors, and these."""
    children = {}
    for pid, (_, parent, _) in seen.items():
        children.setdefault(parent, []).append(pid)
    found, todo = set(), [pid for pid in roots if pid in seen]
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += children.get(pid, [])
    return found


def processor_time(roots):
    seen = processes()
    return sum(seen[pid][2] for pid in descendants(roots, seen))


class Meter:
    """`with Meter(road, daemons) as meter: …`, then meter.sample. Daemons are the pids that work on the master's side besides the
    commands that the bench itself runs."""

    def __init__(self, road, daemons=()):
        self.road, self.daemons = road, daemons

    def reading(self):
        own = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {"master_cpu": own.ru_utime + own.ru_stime + processor_time(self.daemons),
                "target_cpu": processor_time([int(self.road.site.said("sshd.pid"))]), **self.road.carried()}

    def __enter__(self):
        os.sync()
        self.before = self.reading()
        self.start = time.monotonic()
        return self

    def __exit__(self, *_):
        seconds = time.monotonic() - self.start
        after = self.reading()
        self.sample = {"seconds": seconds, **{what: after[what] - self.before[what] for what in after}}


class Memory(threading.Thread):
    """The most memory that any one process of the tool had, at either end, while `with Memory(…) as memory` lasted."""

    def __init__(self, road, daemons=()):
        super().__init__(daemon=True)
        self.ends = {"master_memory": [os.getpid(), *daemons], "target_memory": [int(road.site.said("sshd.pid"))]}
        self.sample = dict.fromkeys(self.ends, 0)
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(0.02):
            seen = processes()
            # A child that has not become its program yet has the bench's own name and memory.
            passed_over = NOT_THE_TOOL | {seen[os.getpid()][0]}
            for end, roots in self.ends.items():
                for pid in descendants(roots, seen):
                    if seen[pid][0] not in passed_over:
                        self.sample[end] = max(self.sample[end], peak_memory(pid))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


def shell(text):
    """A pipeline in which every part must succeed."""
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"bench: this ended with {done.returncode}:\n{text}\n{done.stdout}{done.stderr}")


class Watch(threading.Thread):
    """When a version appeared in an archive, and when it was whole: all its files there, of the right size."""

    def __init__(self, source, place, patience=120):
        super().__init__(daemon=True)
        self.files = [(place / path.relative_to(source), path.stat().st_size) for path in source.rglob("*") if path.is_file()]
        self.place, self.patience = place, patience
        self.appeared = self.whole = None

    def run(self):
        give_up = time.monotonic() + self.patience
        while not self.place.exists() and time.monotonic() < give_up:
            time.sleep(0.0005)
        self.appeared = time.monotonic()
        # A version that the first look finds whole was never seen by halves, however long the look took.
        self.whole = self.appeared
        while not all(self.has(*file) for file in self.files):
            time.sleep(0.0005)
            self.whole = time.monotonic()
            if self.whole > give_up:
                self.whole = None
                return

    @staticmethod
    def has(path, size):
        try:
            return path.stat().st_size == size
        except OSError:
            return False

    def sample(self, start):
        """What it saw, counted from a start: seconds until whole, and seconds for which half of it could be seen."""
        self.join()
        if self.whole is None:
            sys.exit(f"bench: {self.place} was not whole within {self.patience} s")
        return {"seconds": self.whole - start, "half_visible": self.whole - self.appeared}

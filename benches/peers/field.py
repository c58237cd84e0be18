"""The field of the race: roads to a target, corpora, rounds, and the book in which all is written down."""
import contextlib, os, pathlib, statistics, sys, tempfile

import lab, mkcorpus
from lab import Home, Site, run
from peers.link import TARGET, Link

LOCK = pathlib.Path(__file__).resolve().parent / "packages.lock"
SCRATCH = pathlib.Path(tempfile.gettempdir()) / f"blat-bench-peers-{os.getuid()}"
ROUND_TRIP_MS, RATE_MBIT = 50, 200


class Road:
    """A way to a target behind the lab's sshd: this machine's loopback, or a link."""

    def __init__(self, name, site, link=None):
        self.name, self.site, self.link = name, site, link
        self.round_trip_ms = link.round_trip_ms if link else 0
        self.archives, self.done_with = 0, []

    def archive(self, tag):
        """A new empty archive at the target's end."""
        self.archives += 1
        return self.site.make_archive(f"{tag}-{self.archives}")

    def discard(self, archive):
        """Is removed when all rounds are over: ext4 shuns the inodes of files that have just been deleted, and the next way would pay."""
        self.done_with.append(archive)

    def clear_away(self):
        for archive in self.done_with:
            lab.remove(archive)
        self.done_with.clear()

    def carried(self):
        """Bytes so far, where they can be told from those of others."""
        if not self.link:
            return {}
        sent, received = self.link.carried()
        return {"sent": sent, "received": received}

    def ssh(self, kept=False):
        """The ssh client's words, without the host; `kept` uses one connection for many calls."""
        folder = self.site.folder
        words = [*self.site.master, "ssh", "-F", folder / "ssh_config"]
        if kept:
            words += ["-o", "ControlMaster=auto", "-o", f"ControlPath={folder}/kept", "-o", "ControlPersist=600"]
        return " ".join(map(str, words))

    @contextlib.contextmanager
    def kept(self):
        """While this lasts, calls by `ssh(kept=True)` need not log in."""
        run("sh", "-c", f"{self.ssh(kept=True)} target true >/dev/null 2>&1")
        try:
            yield
        finally:
            run("sh", "-c", f"{self.ssh(kept=True)} -O exit target 2>/dev/null")


class Row:
    """The samples of one way of doing a job, in one case, on one road."""

    def __init__(self, road, case, way):
        self.road, self.round_trip_ms = road.name, road.round_trip_ms
        self.case, self.way, self.samples = case, way, []

    def values(self, what):
        return [sample[what] for sample in self.samples if what in sample]

    def median(self, what="seconds"):
        return statistics.median(self.values(what))

    def late(self, what="seconds"):
        """The 99th percentile, by nearest rank."""
        values = sorted(self.values(what))
        return values[-(-len(values) * 99 // 100) - 1]

    def most(self, what):
        return max(self.values(what))


class Field:
    """What jobs are given: the options, roads, corpora, and the book (`rows`, `demands`) of the job that runs."""

    def __init__(self, rounds, small, receiver, road_names, earlier=None):
        self.count, self.small = rounds, small
        # Ours, and an earlier build of it where one is given: what follows a way's name, and the folder of the executables.
        self.builds = [("", lab.BIN)] + ([(", earlier build", earlier)] if earlier else [])
        self.keys = f"receiver: {receiver}\n" if receiver else ""
        self.road_names = road_names
        self.opened, self.homes = {}, 0
        self.rows, self.demands = [], []

    def size(self, full, small):
        return small if self.small else full

    # Roads

    def roads(self):
        return [self.loopback() if name == "loopback" else self.link() for name in self.road_names]

    def loopback(self):
        return self.open("loopback", None)

    def link(self, round_trip_ms=ROUND_TRIP_MS):
        name = "link" if round_trip_ms == ROUND_TRIP_MS else f"link of {round_trip_ms} ms"
        return self.open(name, Link(SCRATCH / "link", round_trip_ms, RATE_MBIT))

    def open(self, name, link):
        if name not in self.opened:
            folder = SCRATCH / f"sshd-{name.replace(' ', '-')}"
            site = Site(folder, TARGET, link.master, link.target) if link else Site(folder)
            self.opened[name] = Road(name, site, link)
            if link:
                link.up()
            site.start()
        return self.opened[name]

    def close(self):
        for road in self.opened.values():
            road.site.stop()
            if road.link:
                road.link.down()

    # Corpora

    def hollow(self, versions, files):
        """An archive for the master, made once in a run."""
        place = SCRATCH / f"hollow-{versions}-{files}"
        if not place.exists():
            mkcorpus.hollow(place, *self.shape(versions), files)
        return place

    def hollow_there(self, road, versions, files):
        """The same for a target."""
        place = road.site.make_archive(f"hollow-{versions}-{files}")
        if not any(place.iterdir()):
            mkcorpus.hollow(place, *self.shape(versions), files)
            road.site.own(place)
        return place

    @staticmethod
    def shape(versions):
        """Names, and versions of each: ten, as far as that goes."""
        each = 10 if versions >= 10 else 1
        return versions // each, each

    def locked(self):
        """The lines of the list of real packages; in small a few that are small."""
        lines = mkcorpus.read_lock(LOCK)
        few = {"click", "certifi", "requests", "log", "anyhow", "bitflags"}
        return [line for line in lines if not self.small or line[1] in few]

    def real(self):
        """The archive of real packages, made once in a run."""
        place = SCRATCH / "real"
        if not place.exists():
            mkcorpus.real(place, self.locked())
        return place

    def selection(self, name, packages):
        """An archive of some packages of another, by hard links."""
        place = SCRATCH / name
        place.mkdir(exist_ok=True)
        for package in packages:
            if (place / package.parent.name / package.name).exists():
                continue
            (place / package.parent.name).mkdir(parents=True, exist_ok=True)
            run("cp", "-al", package, place / package.parent.name)
        return place

    # Blat

    def home(self, road, source, build=lab.BIN):
        """A fresh home tree, with whatever options this run has."""
        self.homes += 1
        return Home(SCRATCH / f"home-{self.homes}", road.site, source, self.keys, build)

    @contextlib.contextmanager
    def running(self, home):
        """While this lasts, the home's master runs, and its agents have synced once. Gives the master's pid."""
        run(*home.blat("start"))
        try:
            run(*home.blat("sync", "--wait"))
            yield home.pid("blatd")
        finally:
            run(*home.blat("stop"))

    # The book

    def row(self, road, case, way):
        row = Row(road, case, way)
        self.rows.append(row)
        return row

    def rounds(self, road, case, ways):
        """Every way in turn, as often as there are rounds, each round beginning with another. A way gives a sample or a list."""
        rows = {way: self.row(road, case, way) for way in ways}
        order = list(ways)
        for _ in range(self.count):
            for way in order:
                got = ways[way]()
                rows[way].samples += got if isinstance(got, list) else [got]
            order = order[1:] + order[:1]
        road.clear_away()
        return rows

    def demand(self, road, text, figure, limit, at_least=False):
        """What the plan of work asks. In small, figures say nothing about Blat, so they are not judged."""
        met = None if self.small else figure >= limit if at_least else figure <= limit
        self.demands.append({"road": road.name, "text": text, "figure": figure, "limit": limit, "at_least": at_least, "met": met})


def start_clean():
    """Whatever a broken run left is ended and removed."""
    if SCRATCH.exists():
        for home in SCRATCH.glob("home-*"):
            run(lab.BIN / "blat", "--home", home, "stop")
        for folder in SCRATCH.glob("sshd-*"):
            run(lab.LAB / "sshd", "stop", folder)
        lab.remove(SCRATCH)
    SCRATCH.mkdir(mode=0o755)


def check_link_possible(road_names):
    if "link" in road_names and os.getuid() != 0:
        sys.exit("bench: the link takes network namespaces, thus root; --roads loopback goes without")

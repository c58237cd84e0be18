"""Jobs on single packages: from event to visible, and the next version of what the target holds."""
import contextlib, shlex, statistics, subprocess, sys, time

import mkcorpus
from lab import run
from peers import ways
from peers.field import SCRATCH
from peers.measure import Meter, Watch, shell

LSYNCD, RSYNC, TAR, BLAT = "lsyncd, delay 0", "rsync over a kept connection", "tar over a kept connection", "blat, from its tag"
COPY_DEST, WHOLE, TAGGED = "rsync -z --copy-dest, connection kept", "tar | zstd -3, connection kept", "blat, from its tag"
BYTES, FILES = 500_000, 20
# The newest two versions in packages.lock of each of these.
PAIRS = """numpy cryptography pillow lxml pydantic-core ruff orjson grpcio protobuf aiohttp msgpack django botocore sphinx setuptools
pip pygments requests urllib3 click""".split()


class Events:
    """Packages that come one by one into an archive of their own, aside first: each is moved in whole, or merely tagged."""

    def __init__(self, folder, archive):
        self.aside, self.source, self.archive = folder / "aside", folder / "source", archive
        (self.source / "event").mkdir(parents=True)
        self.number = 0

    def next(self, happen):
        """Lets the next package happen; gives a sample once it is whole on the target."""
        self.number += 1
        version = str(self.number)
        mkcorpus.one(self.aside, "event", version, BYTES, FILES)
        fresh = self.aside / "event" / version
        watch = Watch(fresh, self.archive / "event" / version)
        watch.start()
        # A read-only folder can't be moved by its owner.
        fresh.chmod(0o755)
        start = happen(fresh, self.source / "event" / version)
        return watch.sample(start)


def moved_in(fresh, place):
    start = time.monotonic()
    fresh.rename(place)
    return start


def pushed(make_text):
    """The event starts a command at once, which favours it: nothing has to notice the event."""
    def happen(fresh, place):
        start = moved_in(fresh, place)
        shell(make_text(place))
        return start
    return happen


def tagged(home):
    """The package lies in the source; the tag is the event."""
    def happen(fresh, place):
        moved_in(fresh, place)
        place.chmod(0o555)
        return drop_tag(home, place)
    return happen


def drop_tag(home, package):
    """Writes a tag as other programs do, aside first; gives when."""
    tags = home.folder / "tags/bench"
    tags.mkdir(parents=True, exist_ok=True)
    name = f"{package.parent.name}@{package.name}"
    fresh = tags / f"{name}.tmp"
    fresh.touch()
    start = time.monotonic()
    fresh.rename(tags / name)
    return start


def rsync_one(road, events):
    return pushed(lambda place: f"cd {events.source} && " + ways.rsync_text(
        road, f"./event/{place.name}", f"{events.archive}/event/{place.name}", kept=True))


def tar_one(road, events):
    return pushed(lambda place: f"tar -C {events.source} -cf - event/{place.name} | "
                  f"{road.ssh(kept=True)} target {shlex.quote(f'tar -C {events.archive} -xf -')}")


def start_lsyncd(road, events):
    config = events.aside.parent / "lsyncd.conf"
    config.write_text(
        'settings { nodaemon = true, statusInterval = 3600, maxProcesses = 4 }\n'
        f'sync {{ default.rsync, source = "{events.source}", target = "target:{events.archive}", delay = 0,'
        f' rsync = {{ archive = true, rsh = "{road.ssh(kept=True)}" }} }}\n')
    return subprocess.Popen([*road.site.master, "lsyncd", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def stop(child):
    child.terminate()
    child.wait()


def stage(field, road, tag):
    folder = SCRATCH / f"events-{tag}-{road.name}"
    archive = road.site.make_archive(f"events-{tag}")
    road.site.run_there("mkdir", "-p", archive / "event")
    return Events(folder, archive)


def event(field):
    """One package of 500 kB, from event to visible"""
    each = field.size(20, 3)
    for road in field.roads():
        ours = {BLAT + suffix: build for suffix, build in field.builds}
        events = {way: stage(field, road, str(n)) for n, way in enumerate((LSYNCD, RSYNC, TAR, *ours))}
        homes = {way: field.home(road, events[way].source, build) for way, build in ours.items()}
        for way, home in homes.items():
            home.aim("bench", events[way].archive.name)
        happen = {LSYNCD: moved_in, RSYNC: rsync_one(road, events[RSYNC]), TAR: tar_one(road, events[TAR]),
                  **{way: tagged(home) for way, home in homes.items()}}

        def several(way):
            return lambda: [events[way].next(happen[way]) for _ in range(each)]

        with contextlib.ExitStack() as running:
            for entered in (road.kept(), *map(field.running, homes.values())):
                running.enter_context(entered)
            lsyncd = start_lsyncd(road, events[LSYNCD])
            try:
                # Once each uncounted: lsyncd and the agent are up when these have arrived.
                time_to_watch(events[LSYNCD], lsyncd)
                for way in ours:
                    events[way].next(happen[way])
                rows = field.rounds(road, {"bytes": BYTES}, {way: several(way) for way in happen})
            finally:
                stop(lsyncd)
        judge(field, road, rows[BLAT])
        during_bulk(field, road)


def time_to_watch(events, lsyncd):
    """lsyncd syncs all at its start; what is there by then says that it is up."""
    events.next(moved_in)
    if lsyncd.poll() is not None:
        sys.exit("bench: lsyncd ended by itself")


def judge(field, road, row):
    limit = road.round_trip_ms + 10 if road.link else 15
    field.demand(road, f"ms, {row.way}, median", row.median() * 1000, limit)
    field.demand(road, f"ms, {row.way}, 99th percentile", row.late() * 1000, 2 * limit)
    field.demand(road, f"ms half visible, {row.way}", row.most("half_visible") * 1000, 0)


def during_bulk(field, road):
    """The same while all the real packages are on their way."""
    way = f"{BLAT}, during a bulk sync"
    rows = field.rounds(road, {"bytes": BYTES}, {way: lambda: bulk_ours(field, road),
                                               f"{RSYNC}, during rsync -a": lambda: bulk_rsync(field, road)})
    judge(field, road, rows[way])


def bulk_ours(field, road):
    events = stage(field, road, f"bulk-ours-{field.homes}")
    real = field.real()
    run("cp", "-al", *real.iterdir(), events.source)
    home = field.home(road, events.source)
    home.aim("bench", events.archive.name)
    home.want([])
    with field.running(home):
        home.want([events.source / package.relative_to(real) for package in real.glob("*/*")])
        return while_it_runs(road, events, tagged(home), home.blat("sync", "--wait"))


def bulk_rsync(field, road):
    field.homes += 1
    events = stage(field, road, f"bulk-rsync-{field.homes}")
    with road.kept():
        return while_it_runs(road, events, rsync_one(road, events), ["bash", "-c", ways.rsync_text(road, field.real(), events.archive)])


def while_it_runs(road, events, happen, bulk):
    """Samples of events that began and ended while another command ran, at least one."""
    child = subprocess.Popen([str(word) for word in bulk], stdout=subprocess.DEVNULL)
    samples = []
    while child.poll() is None:
        samples.append(events.next(happen))
        time.sleep(0.1)
    if child.returncode:
        sys.exit(f"bench: {bulk} ended with {child.returncode} beside the events")
    road.discard(events.archive)
    return samples[:-1] or samples


def next_version(field):
    """The next version of 20 real packages, each to a target that holds the one before"""
    held, coming = pairs(field)
    source = field.selection("pairs", held + coming)
    for road in field.roads():
        rows = {}
        for new in coming:
            case = {"package": new.parent.name}
            rows[new] = {way: field.row(road, case, way) for way in (COPY_DEST, WHOLE, TAGGED)}
        for number in range(field.count):
            with road.kept():
                next_by_peers(road, source, held, coming, rows, number)
            next_ours(field, road, source, held, coming, rows)
        road.clear_away()
        judge_next(field, road, rows)


def pairs(field):
    """The packages that a target holds, and those that come."""
    names = field.size(PAIRS, ["click", "requests"])
    real = field.real()
    held, coming = [], []
    for name in names:
        found = [mkcorpus.name_of(*line) for line in field.locked() if line[:2] == ("pypi", name)]
        before, after = (real / package / version for package, version in found[-2:])
        held.append(before)
        coming.append(after)
    return held, coming


def next_by_peers(road, source, held, coming, rows, number):
    archive = road.site.make_archive(f"next-{number}")
    for old in held:
        (archive / old.parent.name).mkdir(exist_ok=True)
        run("cp", "-a", old, archive / old.parent.name)
    road.site.own(archive)
    for old, new in zip(held, coming):
        name = new.parent.name
        text = ways.rsync_text(road, source / name / new.name, archive / name / new.name, "-z", f"--copy-dest=../{old.name}", kept=True)
        rows[new][COPY_DEST].samples.append(ways.measured(road, text)())
        whole = road.site.make_archive(f"whole-{number}")
        text = ways.stream_text(road, source, whole, names=f"{name}/{new.name}", kept=True)
        rows[new][WHOLE].samples.append(ways.measured(road, text)())
    road.discard(archive)
    road.discard(whole)


def next_ours(field, road, source, held, coming, rows):
    home = field.home(road, source)
    archive = home.aim("bench", f"next-ours-{field.homes}")
    home.want(held)
    with field.running(home) as master:
        for new in coming:
            place = archive / new.parent.name / new.name
            watch = Watch(new, place)
            watch.start()
            with Meter(road, [master]) as meter:
                start = drop_tag(home, new)
                seen = watch.sample(start)
                tag = home.folder / f"tags/bench/{new.parent.name}@{new.name}"
                while tag.exists():
                    time.sleep(0.001)
            # The bytes of all that belongs to it, but the time until it was visible.
            rows[new][TAGGED].samples.append({**meter.sample, **seen})
    road.discard(archive)


def judge_next(field, road, rows):
    def ratio(what):
        return statistics.geometric_mean(by[TAGGED].median(what) / by[COPY_DEST].median(what) for by in rows.values())
    if road.link:
        field.demand(road, f"bytes against {COPY_DEST}", ratio("sent"), 0.4)
        field.demand(road, f"time against {COPY_DEST}", ratio("seconds"), 0.7)

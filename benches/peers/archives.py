"""Jobs on whole archives: nothing to do, the first fill, memory."""
import contextlib

import mkcorpus
from lab import MIB, remove, run
from peers import ways
from peers.measure import Memory, Meter
from peers.ways import LONG, SORTED

RUNNING, ONCE = "blat sync --wait, agent running", "blat-agent --once"
RSYNC, RSYNC_BEST, FIND = "rsync -a", "rsync -a --no-inc-recursive", "find of descpkg over ssh"
STREAM, STREAM_LONG = "tar | zstd -3 | ssh", "the same, sorted, --long=27"


def ours(road, home, daemons=()):
    """A way: one sync of an agent that runs, or of one that has to log in first."""
    def once():
        with Meter(road, daemons) as meter:
            run(*(home.blat("sync", "--wait") if daemons else home.once("bench")))
        return meter.sample
    return once


def compare_same(field, road, versions, files, peers=(RSYNC, RSYNC_BEST, FIND)):
    """Rounds of all ways on an archive that is there already; gives their rows."""
    source, archive = field.hollow(versions, files), field.hollow_there(road, versions, files)
    # A home of its own for the agent that has to log in: two agents can't have one home's target at once.
    by_hand = field.home(road, source)
    residents = {suffix: field.home(road, source, build) for suffix, build in field.builds}
    for home in (by_hand, *residents.values()):
        home.aim("bench", archive.name)
    theirs = {RSYNC: ways.rsync(road, source, archive), RSYNC_BEST: ways.rsync(road, source, archive, "--no-inc-recursive"),
              FIND: ways.find_descpkg(road, source, archive)}
    # Once each uncounted: scripts installed, caches warm.
    theirs[RSYNC]()
    run(*by_hand.once("bench"))
    with contextlib.ExitStack() as running:
        masters = {suffix: running.enter_context(field.running(home)) for suffix, home in residents.items()}
        return field.rounds(road, {"versions": versions, "files": files}, {
            **{way: theirs[way] for way in peers}, ONCE: ours(road, by_hand),
            **{RUNNING + suffix: ours(road, home, [masters[suffix]]) for suffix, home in residents.items()}})


def same(field):
    """Nothing to do: 10,000 and 50,000 versions of 20 files"""
    biggest = {}
    for versions in field.size([10_000, 50_000], [20]):
        for road in field.roads():
            rows = biggest[road.name] = compare_same(field, road, versions, 20)
    for road in field.roads():
        rows = biggest[road.name]
        for peer, factor in ((RSYNC, 100), (RSYNC_BEST, 50)):
            field.demand(road, f"{peer} takes longer by", rows[peer].median() / rows[RUNNING].median(), factor, at_least=True)
    if {"loopback", "link"} <= biggest.keys():
        longer = biggest["link"][RUNNING].median() - biggest["loopback"][RUNNING].median()
        field.demand(field.link(), "round trips of the running agent", longer * 1000 / field.link().round_trip_ms, 3)


def fresh(road, way, tag):
    """A way into an archive that is empty each time."""
    def once():
        archive = road.archive(tag)
        road.discard(archive)
        return way(archive)
    return once


def fill_ours(field, road, source, build):
    """A release gets its packages while the agent runs; checked against the source afterwards."""
    home = field.home(road, source, build)
    archive = home.aim("bench", f"ours-{field.homes}")
    home.want([])
    with field.running(home) as master:
        home.want(sorted(source.glob("*/*")))
        sample = ours(road, home, [master])()
    differing = run("rsync", "-anc", "--no-owner", "--no-group", "--out-format=%n", f"{source}/", f"{archive}/").split("\n")
    differing = [path for path in differing if path and not path.endswith("/")]
    if differing:
        raise SystemExit(f"bench: after the fill {len(differing)} files differ, {differing[0]} first")
    road.discard(archive)
    return sample


def fill(field):
    """First fill with real packages, ours durable and verified"""
    source = field.real()
    case = {"packages": len(list(source.glob("*/*"))), "bytes": bytes_of(source)}
    for road in field.roads():
        rows = field.rounds(road, case, {
            RSYNC: fresh(road, lambda archive: ways.rsync(road, source, archive)(), "rsync"),
            STREAM: fresh(road, lambda archive: ways.stream(road, source, archive)(), "stream"),
            STREAM_LONG: fresh(road, lambda archive: ways.stream(road, source, archive, tar=SORTED, zstd=LONG)(), "long"),
            **{RUNNING + suffix: lambda build=build: fill_ours(field, road, source, build) for suffix, build in field.builds}})
        ours_took = rows[RUNNING].median()
        if not road.link:
            field.demand(road, f"time against {STREAM}", ours_took / rows[STREAM].median(), 1.0)
            field.demand(road, f"time against {RSYNC}", ours_took / rows[RSYNC].median(), 0.75)
            continue
        best = min((rows[STREAM], rows[STREAM_LONG]), key=lambda row: row.median())
        field.demand(road, "time against the best stream", ours_took / best.median(), 0.95)
        least = min(rows[STREAM].median("sent"), rows[STREAM_LONG].median("sent"))
        field.demand(road, "bytes against the best stream", rows[RUNNING].median("sent") / least, 1.0)


def bytes_of(archive):
    return sum(path.lstat().st_size for path in archive.rglob("*") if path.is_file() and not path.is_symlink())


def memory(field):
    """Memory: the largest process of the tool at either end"""
    road, versions = field.loopback(), field.size(50_000, 50)
    source, archive = field.hollow(versions, 20), field.hollow_there(road, versions, 20)
    home = field.home(road, source)
    home.aim("bench", archive.name)
    case = {"versions": versions, "files": 20}
    nothing = field.row(road, case, f"{ONCE}, nothing to do")
    record(nothing, road, lambda: run(*home.once("bench")))
    for way, options in ((RSYNC, ()), (RSYNC_BEST, ("--no-inc-recursive",))):
        record(field.row(road, case, f"{way}, nothing to do"), road, ways.rsync(road, source, archive, *options))
    for end in ("master", "target"):
        field.demand(road, f"MiB of the {end}, nothing to do", nothing.most(f"{end}_memory") / MIB, 32)

    large = field.size(2 << 30, 2 << 20)
    single = field.selection("large", [])
    mkcorpus.one(single, "large", "1.0", large, 4)
    filled = [filling(field, road, single, {"packages": 1, "bytes": large}),
              filling(field, road, field.real(), {"packages": len(list(field.real().glob("*/*")))})]
    for end in ("master", "target"):
        field.demand(road, f"MiB of the {end}, filling", max(row.most(f"{end}_memory") for row in filled) / MIB, 192)


def filling(field, road, source, case):
    home = field.home(road, source)
    archive = home.aim("bench", f"memory-{field.homes}")
    row = field.row(road, case, f"{ONCE}, filling")
    record(row, road, lambda: run(*home.once("bench")))
    remove(archive)
    return row


def record(row, road, job):
    with Memory(road) as watched:
        job()
    row.samples.append(watched.sample)

"""Jobs with many: targets at once, and how cost grows with versions, files, targets and round trips."""
from peers import ways
from peers.archives import RSYNC, RUNNING, compare_same, ours
from peers.measure import Meter, shell

PARALLEL, SHARED = "rsync -a, one a target, in parallel", "one tar | zstd -3 for all"


def to_all(road, targets, text_for):
    """A peer's way to several archives, empty each time."""
    def once():
        archives = [road.archive("fan") for _ in range(targets)]
        with Meter(road) as meter:
            shell(text_for(archives))
        for archive in archives:
            road.discard(archive)
        return meter.sample
    return once


def ours_to_all(field, road, source, targets):
    """A release gets its packages while the agents of all targets run."""
    home = field.home(road, source)
    archives = [home.aim(f"bench{n}", f"fan-{field.homes}-{n}") for n in range(targets)]
    home.want([])
    with field.running(home) as master:
        home.want(sorted(source.glob("*/*")))
        sample = ours(road, home, [master])()
    for archive in archives:
        road.discard(archive)
    return sample


def compare_fanout(field, road, source, targets):
    case = {"targets": targets, "packages": len(list(source.glob("*/*")))}
    return field.rounds(road, case, {
        PARALLEL: to_all(road, targets, lambda archives: ways.parallel(
            [ways.rsync_text(road, source, archive) for archive in archives])),
        SHARED: to_all(road, targets, lambda archives: ways.shared_stream_text(road, source, archives)),
        RUNNING: lambda: ours_to_all(field, road, source, targets)})


def crates(field):
    """Some hundred real packages that are not large."""
    chosen = sorted(field.real().glob("rs-*/*"))[:field.size(200, 4)]
    return field.selection("crates", chosen)


def fanout(field):
    """200 packages to 8 targets"""
    source = crates(field)
    for road in field.roads():
        one = compare_fanout(field, road, source, 1)
        many = compare_fanout(field, road, source, field.size(8, 2))
        field.demand(road, f"time against {PARALLEL}", many[RUNNING].median() / many[PARALLEL].median(), 0.7)
        growth_of_cpu = many[RUNNING].median("master_cpu") / one[RUNNING].median("master_cpu")
        field.demand(road, "master's processor time, against one target", growth_of_cpu, 2.5)


def growth(field):
    """How cost grows, for the plots"""
    loopback = field.loopback()
    for versions in field.size([1_000, 2_000, 5_000, 10_000, 20_000, 50_000], [20]):
        compare_same(field, loopback, versions, 20)
    for files in field.size([5, 40, 80], [5]):
        compare_same(field, loopback, field.size(5_000, 20), files)
    for targets in field.size([1, 2, 4, 8], [1, 2]):
        compare_fanout(field, loopback, crates(field), targets)
    if "link" in field.road_names:
        for round_trip in field.size([2, 20, 50, 100], [2, 50]):
            compare_same(field, field.link(round_trip), field.size(1_000, 20), 20, peers=(RSYNC,))

"""How the peers do the jobs. Each gives a function that does it once and returns its sample."""
import shlex

from peers.measure import Meter, shell

SORTED = "--sort=name"
LONG = "--long=27"


def measured(road, text):
    """A way that is a pipeline of the shell."""
    def once():
        with Meter(road) as meter:
            shell(text)
        return meter.sample
    return once


def rsync_text(road, source, archive, *options, kept=False):
    words = " ".join(options)
    return f"rsync -a {words} -e {shlex.quote(road.ssh(kept))} {source}/ target:{archive}/"


def rsync(road, source, archive, *options):
    return measured(road, rsync_text(road, source, archive, *options))


def find_descpkg(road, source, archive):
    """Lists every descpkg at both ends, with time and size, and compares: the least that a script must do to see what is missing."""
    list_text = "find . -mindepth 3 -maxdepth 3 -name descpkg -printf '%P %T@ %s\\n' | LC_ALL=C sort"
    there = shlex.quote(f"cd {archive} && {list_text}")
    return measured(road, f"diff <(cd {source} && {list_text}) <({road.ssh()} target {there}) >/dev/null")


def stream_text(road, source, archive, names=".", tar="", zstd="", kept=False):
    """One tar, packed by zstd -3, unpacked there."""
    there = shlex.quote(f"zstd -dq {zstd} | tar -C {archive} -xf -")
    return f"tar -C {source} {tar} -cf - {names} | zstd -q -3 {zstd} | {road.ssh(kept)} target {there}"


def stream(road, source, archive, **options):
    return measured(road, stream_text(road, source, archive, **options))


def parallel(texts):
    """Several pipelines at once, which all must succeed."""
    return "pids=; " + " ".join(f"( {text} ) & pids=\"$pids $!\";" for text in texts) + " for pid in $pids; do wait $pid; done"


def shared_stream_text(road, source, archives):
    """Read and packed once, sent to all by a tee, which waits for the slowest."""
    pipes = [f"$pipes/{number}" for number in range(len(archives))]
    readers = " ".join(
        f"{road.ssh()} target {shlex.quote(f'zstd -dq | tar -C {archive} -xf -')} <{pipe} & pids=\"$pids $!\";"
        for archive, pipe in zip(archives, pipes))
    return (f"pipes=$(mktemp -d); mkfifo {' '.join(pipes)}; pids=; {readers} "
            f"tar -C {source} -cf - . | zstd -q -3 | tee {' '.join(pipes)} >/dev/null; "
            "for pid in $pids; do wait $pid; done; rm -r $pipes")

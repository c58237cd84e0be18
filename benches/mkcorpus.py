#!/usr/bin/env python3
"""Makes archives of NAME/VERSION/{descpkg, ...} to measure with.

  mkcorpus.py hollow OUT NAMES VERSIONS FILES   right sizes and no data blocks: for jobs in which only names and times count
  mkcorpus.py one OUT NAME VERSION BYTES FILES  adds one package of data that compresses as programs and texts do
  mkcorpus.py real OUT LOCK                     the wheels, crates and Debian packages of a list of lines `KIND NAME VERSION`

Names, sizes, modes and times follow from the arguments alone, so two calls make two trees that a synchroniser finds equal.
Downloads are kept below XDG_CACHE_HOME (crates: where cargo keeps them). What is in OUT already is not made again.
"""
import concurrent.futures, math, os, pathlib, random, shutil, subprocess, sys, tarfile, tempfile, time, zipfile

EPOCH = 1_700_000_000
MEDIAN, SPREAD, LARGEST = 2048, 2.0, 32 << 20
FOLDERS = ["", "bin", "lib", "lib/data", "etc"]
PREFIX = {"pypi": "py", "crate": "rs", "deb": "deb"}
# What the wheels are for is fixed, so that they are the same on every machine that measures.
WHEELS = ["--implementation=cp", "--python-version=3.11", "--platform=manylinux_2_28_x86_64", "--platform=manylinux_2_17_x86_64",
          "--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64", "--platform=linux_x86_64"]


def layout(dice, count):
    """The paths of a package and whether each is executable; all versions of a package share them."""
    paths = []
    for n in range(count - 1):
        folder = dice.choice(FOLDERS)
        suffix = "" if folder == "bin" else dice.choice([".so", ".py", ".txt", ".conf"])
        paths.append((os.path.join(folder, f"f{n:04d}{suffix}"), folder == "bin"))
    return paths


def put(path, when, mode, size=0, data=b""):
    """A file of this data, or a hollow one of this size."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    if data:
        os.write(fd, data)
    else:
        os.ftruncate(fd, size)
    os.fchmod(fd, mode)
    os.utime(fd, (when, when))
    os.close(fd)


def seal(root, name, version, when):
    """Writes descpkg last of all, then makes every folder read-only."""
    folders = [(path, files) for path, _, files in os.walk(root, topdown=False)]
    built = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
    text = f"Package: {name}\nVersion: {version}\nBuilt: {built}\nFiles: {sum(len(files) for _, files in folders) + 1}\n"
    put(os.path.join(root, "descpkg"), when, 0o444, data=text.encode())
    for folder, _ in folders:
        os.chmod(folder, 0o555)
        os.utime(folder, (when, when))


def package(out, name, version, files, when):
    """Makes a package of files (path, executable, size, data), hollow where data is empty."""
    root = os.path.join(out, name, version)
    os.makedirs(root)
    for path, executable, size, data in files:
        path = os.path.join(root, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        put(path, when, 0o555 if executable else 0o444, size, data)
    seal(root, name, version, when)


def hollow_name(out, number, versions, files):
    dice = random.Random(number)
    name, paths = f"pkg{number:05d}", layout(dice, files)
    for v in range(versions):
        sizes = [max(1, min(LARGEST, int(dice.lognormvariate(math.log(MEDIAN), SPREAD)))) for _ in paths]
        hollow_files = [(path, executable, size, b"") for (path, executable), size in zip(paths, sizes)]
        package(out, name, f"1.{v}.0", hollow_files, EPOCH + number * 97 + v * 3600)
    os.utime(os.path.join(out, name), (EPOCH, EPOCH))


def hollow(out, names, versions, files):
    """An archive of this many names, versions of each, and files in each version."""
    with concurrent.futures.ProcessPoolExecutor() as workers:
        for done in [workers.submit(hollow_name, out, number, versions, files) for number in range(names)]:
            done.result()


def data_like_programs(dice, size):
    """Half words, half bytes of which a third are few: shrinks by about two, as built packages do."""
    words = [f"{dice.getrandbits(32):x}" for _ in range(64)]
    parts, made = [], 0
    while made < size:
        text = " ".join(dice.choices(words, k=80)).encode()
        parts += [text, dice.randbytes(400), bytes(dice.choices(b"\0\1\2\3", k=200))]
        made += len(text) + 600
    return b"".join(parts)[:size]


def one(out, name, version, size, files):
    """Adds one package, `size` bytes in `files` files of very different sizes."""
    dice = random.Random(f"{name}/{version}")
    paths = layout(dice, files)
    weights = [dice.lognormvariate(0, 1.2) for _ in paths]
    made = []
    for (path, executable), weight in zip(paths, weights):
        data = data_like_programs(dice, max(1, int(size * weight / sum(weights))))
        made.append((path, executable, len(data), data))
    package(out, name, version, made, int(time.time()))


def quietly(*command, **options):
    """Runs a registry's client; gives what it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout


def downloaded(kind, name, version, *command):
    """The one file that a client put into a folder of the cache, now or in an earlier run."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "blat-bench"
    folder = cache / kind / f"{name}-{version}".replace(":", "_")
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
            quietly(*command, cwd=fresh)
            os.chmod(fresh, 0o755)
            os.rename(fresh, folder)
            os.mkdir(fresh)
    return next(folder.iterdir())


def unpack_pypi(name, version, into):
    wheel = downloaded("pypi", name, version, sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:",
                       *WHEELS, f"{name}=={version}")
    with zipfile.ZipFile(wheel) as archive:
        for item in archive.infolist():
            path = archive.extract(item, into)
            if not item.is_dir():
                os.chmod(path, 0o755 if (item.external_attr >> 16) & 0o111 else 0o644)
                when = time.mktime((*item.date_time, 0, 0, 0))
                os.utime(path, (when, when))


def unpack_crate(name, version, into):
    home = pathlib.Path(os.environ.get("CARGO_HOME") or pathlib.Path.home() / ".cargo")
    pattern = f"registry/cache/*/{name}-{version}.crate"
    found = list(home.glob(pattern))
    if not found:
        # Outside any workspace, whose own choice of versions would count.
        quietly("cargo", "info", "-q", f"{name}@{version}", cwd="/")
        found = list(home.glob(pattern))
    with tarfile.open(found[0]) as archive:
        for member in archive.getmembers():
            member.name = os.path.join(*pathlib.PurePath(member.name).parts[1:])
            archive.extract(member, into)


def unpack_deb(name, version, into):
    file = downloaded("deb", name, version, "apt-get", "download", "-qq", f"{name}={version}")
    quietly("dpkg-deb", "-x", file, into)


UNPACK = {"pypi": unpack_pypi, "crate": unpack_crate, "deb": unpack_deb}


def name_of(kind, name, version):
    """What a package of a registry is called in the archive."""
    return f"{PREFIX[kind]}-{name}", version.replace(":", "_")


def real_package(out, kind, registry_name, registry_version, when):
    name, version = name_of(kind, registry_name, registry_version)
    place = os.path.join(out, name, version)
    if os.path.exists(place):
        return
    # Inside the archive, since only there is a rename sure to be one.
    with tempfile.TemporaryDirectory(dir=out, prefix=".stage-") as stage:
        tree = os.path.join(stage, "tree")
        os.mkdir(tree)
        UNPACK[kind](registry_name, registry_version, tree)
        for folder, _, files in os.walk(tree):
            for file in files:
                path = os.path.join(folder, file)
                seen = os.lstat(path)
                written = min(int(seen.st_mtime), when)
                os.utime(path, (written, written), follow_symlinks=False)
                if not os.path.islink(path):
                    os.chmod(path, 0o555 if seen.st_mode & 0o111 else 0o444)
        seal(tree, name, version, when)
        # A read-only folder can't be moved by its owner.
        os.chmod(tree, 0o755)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.rename(tree, place)
        os.chmod(place, 0o555)


def read_lock(lock):
    """The lines of a list of real packages, as (kind, name, version)."""
    lines = pathlib.Path(lock).read_text().splitlines()
    return [tuple(line.split()) for line in lines if line and not line.startswith("#")]


def real(out, packages):
    """An archive of real packages. Those that can't be had are named on standard error and left out."""
    os.makedirs(out, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(3) as workers:
        tries = [(which, workers.submit(real_package, out, *which, EPOCH + n * 61)) for n, which in enumerate(packages)]
        for which, attempt in tries:
            try:
                attempt.result()
            except (RuntimeError, OSError) as error:
                print(f"mkcorpus: left out: {' '.join(which)}: {error}", file=sys.stderr)


def main(words):
    match words:
        case ["hollow", out, *numbers] if len(numbers) == 3:
            hollow(out, *map(int, numbers))
        case ["one", out, name, version, size, files]:
            one(out, name, version, int(size), int(files))
        case ["real", out, lock]:
            real(out, read_lock(lock))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])

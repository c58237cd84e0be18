#!/usr/bin/env python3
"""mkcorpus.py OUT NAMES VERSIONS FILES: an archive of OUT/NAME/VERSION/{descpkg, ...}, the same at every call.

Names, sizes, modes and times follow from the numbers alone, so two calls make two trees that a synchroniser finds
equal. Files have their right sizes and no data blocks: for jobs in which only names and times count.
"""
import math, os, random, sys, time

EPOCH = 1_700_000_000
MEDIAN, SPREAD, LARGEST = 2048, 2.0, 32 << 20
FOLDERS = ["", "bin", "lib", "lib/data", "etc"]


def layout(dice, count):
    """The paths of a package and whether each is executable; all versions of a package share them."""
    paths = []
    for n in range(count - 1):
        folder = dice.choice(FOLDERS)
        suffix = "" if folder == "bin" else dice.choice([".so", ".py", ".txt", ".conf"])
        paths.append((os.path.join(folder, f"f{n:04d}{suffix}"), folder == "bin"))
    return paths


def put(path, when, mode, size=0, text=b""):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    if text:
        os.write(fd, text)
    else:
        os.ftruncate(fd, size)
    os.fchmod(fd, mode)
    os.utime(fd, (when, when))
    os.close(fd)


def package(root, name, version, paths, dice, when):
    folders = {root}
    os.makedirs(root)
    for path, executable in paths:
        path = os.path.join(root, path)
        folder = os.path.dirname(path)
        os.makedirs(folder, exist_ok=True)
        while folder not in folders:
            folders.add(folder)
            folder = os.path.dirname(folder)
        size = min(LARGEST, int(dice.lognormvariate(math.log(MEDIAN), SPREAD)))
        put(path, when, 0o555 if executable else 0o444, size=max(size, 1))
    built = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
    text = f"Package: {name}\nVersion: {version}\nBuilt: {built}\nFiles: {len(paths) + 1}\n"
    put(os.path.join(root, "descpkg"), when, 0o444, text=text.encode())
    for folder in sorted(folders, key=len, reverse=True):
        os.chmod(folder, 0o555)
        os.utime(folder, (when, when))


def main():
    out, names, versions, files = sys.argv[1], *map(int, sys.argv[2:])
    for n in range(names):
        dice = random.Random(n)
        name, paths = f"pkg{n:05d}", layout(dice, files)
        for v in range(versions):
            package(os.path.join(out, name, f"1.{v}.0"), name, f"1.{v}.0", paths, dice, EPOCH + n * 97 + v * 3600)
        os.utime(os.path.join(out, name), (EPOCH, EPOCH))


if __name__ == "__main__":
    main()

"""What all benches share: commands that must succeed, the private sshd that plays the target, and homes whose agents fill archives there."""
import os, pathlib, subprocess, sys, tempfile, time

REPO = pathlib.Path(__file__).resolve().parent.parent
LAB = REPO / "tests/lab"
BIN = REPO / "target/release"
MIB = 1 << 20


def run(*command, **options):
    """A command that must succeed; gives its standard output."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    if done.returncode:
        sys.exit(f"bench: {' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def timed(*command):
    """Seconds that a command takes. What earlier ones left unwritten is written first, at nobody's expense."""
    os.sync()
    start = time.monotonic()
    run(*command)
    return time.monotonic() - start


def peak_memory(pid):
    """The most memory a process had until now, in bytes; 0 when it is gone."""
    try:
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def peak_of(*command):
    """Runs a command, gives the most memory that it (not its children) had."""
    with tempfile.TemporaryFile() as words:
        child = subprocess.Popen([str(word) for word in command], stdout=words, stderr=subprocess.STDOUT)
        peak = 0
        while child.poll() is None:
            peak = max(peak, peak_memory(child.pid))
            time.sleep(0.01)
        if child.returncode:
            words.seek(0)
            sys.exit(f"bench: {' '.join(map(str, command))} ended with {child.returncode}:\n{words.read().decode()}")
    return peak


def versions(archive):
    """The packages of an archive, as folders."""
    return [p for p in sorted(archive.glob("[!.]*/[!.]*")) if p.is_dir() and not p.is_symlink()]


def remove(path):
    """Deletes an archive, read-only as it is."""
    run(LAB / "archive", "remove", path)


class Site:
    """The target's side: the lab's sshd with its user's home. Commands of either side can be put behind a prefix, which may move
    them into a network namespace; `address` is where the master's side finds the sshd."""

    def __init__(self, folder, address="127.0.0.1", master=(), target=()):
        self.folder, self.address, self.master, self.target = folder, address, list(master), list(target)
        self.remote = folder / "home"

    def start(self):
        run(*self.target, LAB / "sshd", "start", self.folder, env={**os.environ, "LAB_ADDRESS": self.address})

    def stop(self):
        run(LAB / "sshd", "stop", self.folder)

    def said(self, what):
        """What the lab's sshd wrote down about itself: `port`, `user`, `sshd.pid`."""
        return (self.folder / what).read_text().strip()

    def run_there(self, *command):
        run(*self.master, "ssh", "-F", self.folder / "ssh_config", "target", " ".join(f"'{word}'" for word in command))

    def make_archive(self, name):
        """An archive below the target user's home, empty if it is new."""
        archive = self.remote / name
        self.run_there("mkdir", "-p", archive)
        return archive

    def own(self, archive):
        """Gives the target's user an archive that was made for it."""
        if os.getuid() == 0:
            run("chown", "-R", "-h", f"{self.said('user')}:", archive)


class Home:
    """A home tree whose targets want every package of its source, or those that `want` is told."""

    def __init__(self, folder, site, source, keys="", build=BIN):
        self.folder, self.site, self.source, self.keys, self.build = folder, site, source, keys, build
        run(build / "blat", "init", folder)
        # The homes of a bench take turns at one archive, and an archive has one owner: they are one.
        (folder / "config/home-id").write_text(f"{1:032x}\n")
        self.want(versions(source))

    def want(self, packages):
        """What the release holds from now on: folders of the source."""
        lines = "".join(f"          - {p.parent.name}@{p.name}\n" for p in packages)
        body = f"\n{lines}" if lines else " []\n"
        text = f"projects:\n  - name: Bench\n    releases:\n      - id: 1\n        name: All\n        state: open\n        packages:{body}"
        fresh = self.folder / "releases.tmp"
        fresh.write_text(text)
        fresh.rename(self.folder / "releases.yaml")

    def aim(self, target, archive):
        """Points a target, new or known, at an archive; both are made where missing. Gives the archive."""
        place = self.site.make_archive(archive)
        # Of its own: agents of two builds would install their scripts over each other's.
        tools = self.site.remote / f"bin-{self.folder.name}-{target}"
        self.site.run_there("mkdir", "-p", tools)
        lab = self.site.folder
        (self.folder / f"config/{target}.conf").write_text(
            f"host: {self.site.address}\nport: {self.site.said('port')}\nuser: {self.site.said('user')}\n"
            f"identity: {lab}/id_ed25519\nknown_hosts: {lab}/known_hosts\n"
            f"source: {self.source}\narchive: {place}\nbin: {tools}\n"
            f"release_manager: {{file: {self.folder}/releases.yaml}}\nprojects: [Bench]\ndisk_reserve: 64m\n{self.keys}")
        return place

    def once(self, target):
        return [*self.site.master, self.build / "blat-agent", "--home", self.folder, "--target", target, "--once"]

    def blat(self, *words):
        return [*self.site.master, self.build / "blat", "--home", self.folder, *words]

    def pid(self, of):
        """The process of the master (`blatd`) or of a target's agent."""
        return int((self.folder / f"run/{of}.pid").read_text())

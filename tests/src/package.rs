//! Packages for tests, made the way a build server leaves them: whole, read-only, descpkg last.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use crate::accounts;
use crate::dice::Dice;

/// The time of everything in a package, unless it says otherwise: an odd second of 2024.
const TIME: i64 = 1_709_208_001;

/// A package in the making.
#[derive(Debug)]
pub struct Package {
    name: String,
    version: String,
    files: Vec<(PathBuf, Vec<u8>, u32)>,
    links: Vec<(PathBuf, PathBuf)>,
    names: Vec<(PathBuf, PathBuf)>,
    folders: Vec<PathBuf>,
    writable: bool,
    time: i64,
}

impl Package {
    /// A package of nothing but a descpkg.
    pub fn new(name: &str, version: &str) -> Self {
        let (name, version) = (name.to_owned(), version.to_owned());
        Self {
            name,
            version,
            files: vec![],
            links: vec![],
            names: vec![],
            folders: vec![],
            writable: false,
            time: TIME,
        }
    }

    /// A read-only file; its folders come by themselves.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.with_mode(path, content, 0o444)
    }

    /// A read-only executable.
    pub fn exec(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.with_mode(path, content, 0o555)
    }

    /// A file of this mode.
    pub fn with_mode(mut self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> Self {
        self.files.push((path.into(), content.as_ref().to_vec(), mode));
        self
    }

    /// A file of so many bytes that can't be compressed, the same for the same package and path.
    pub fn noise(self, path: &str, bytes: usize) -> Self {
        let seed = self
            .name
            .bytes()
            .chain(self.version.bytes())
            .chain(path.bytes())
            .fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        self.file(path, Dice::seeded(seed).bytes(bytes))
    }

    /// A symlink, wherever it leads.
    pub fn symlink(mut self, path: &str, to: &str) -> Self {
        self.links.push((path.into(), to.into()));
        self
    }

    /// Another name of a file, by a hard link.
    pub fn hard_link(mut self, path: &str, of: &str) -> Self {
        self.names.push((path.into(), of.into()));
        self
    }

    /// A folder, with nothing in it unless something else goes there.
    pub fn empty_dir(mut self, path: &str) -> Self {
        self.folders.push(path.into());
        self
    }

    /// Leaves the folders writable, as of now: a package that its build has not finished.
    pub fn writable(mut self) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
        self.writable = true;
        self.time(now.try_into().expect("a time that fits"))
    }

    /// Another time, in seconds since 1970.
    pub fn time(mut self, seconds: i64) -> Self {
        self.time = seconds;
        self
    }

    /// Writes it as `archive/NAME/VERSION`, which must not exist, and gives that path.
    pub fn write(&self, archive: &Path) -> PathBuf {
        let root = archive.join(&self.name).join(&self.version);
        assert!(!root.exists(), "{} exists, and packages are immutable", root.display());
        let staged = archive.join(&self.name).join(format!(".{}.tmp", self.version));
        fs::create_dir_all(&staged).expect("a source archive that can be written");
        for folder in &self.folders {
            fs::create_dir_all(staged.join(folder)).expect("a new folder");
        }
        for (path, content, mode) in &self.files {
            write_file(&staged.join(path), content, *mode);
        }
        for (path, to) in &self.links {
            let path = staged.join(path);
            fs::create_dir_all(path.parent().expect("a path below the package")).expect("a new folder");
            symlink(to, path).expect("a new link");
        }
        for (path, of) in &self.names {
            let path = staged.join(path);
            fs::create_dir_all(path.parent().expect("a path below the package")).expect("a new folder");
            fs::hard_link(staged.join(of), path).expect("a new name");
        }
        let count = self.files.len() + self.links.len() + self.names.len() + 1;
        let descpkg = format!("Package: {}\nVersion: {}\nFiles: {count}\n", self.name, self.version);
        write_file(&staged.join("descpkg"), descpkg.as_bytes(), 0o444);
        finish(&staged, self.time, self.writable);

        fs::rename(&staged, &root).expect("a free name in the archive");
        if !self.writable {
            fs::set_permissions(&root, fs::Permissions::from_mode(0o555)).expect("an own folder");
        }
        accounts::as_its_folder(root.parent().expect("a folder of the name"));
        accounts::as_its_folder(&root);
        root
    }
}

fn write_file(path: &Path, content: &[u8], mode: u32) {
    fs::create_dir_all(path.parent().expect("a path below the package")).expect("a new folder");
    fs::write(path, content).expect("a new file");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("an own file");
}

/// Times, from the leaves up, and modes of what is inside; the root stays writable, or its owner could not move it.
fn finish(root: &Path, time: i64, writable: bool) {
    for inner in fs::read_dir(root).expect("an own folder") {
        let inner = inner.expect("an own folder").path();
        if inner.is_dir() && !inner.is_symlink() {
            finish(&inner, time, writable);
            let mode = if writable { 0o755 } else { 0o555 };
            fs::set_permissions(&inner, fs::Permissions::from_mode(mode)).expect("an own folder");
        } else {
            set_time(&inner, time);
        }
    }
    set_time(root, time);
}

fn set_time(path: &Path, seconds: i64) {
    let stamp = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let stamps = Timestamps { last_access: stamp, last_modification: stamp };
    rustix::fs::utimensat(CWD, path, &stamps, AtFlags::SYMLINK_NOFOLLOW).expect("an own file");
}

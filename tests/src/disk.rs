//! Small disks and other mounts over folders of a lab. Mounting takes root, so tests that use them are named `as_root_…`.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tmpfs over a folder, with that folder's owner. Unmounted lazily, so whatever still runs in it is no hindrance.
pub struct Disk(PathBuf);

impl Disk {
    /// Mounts it with these options of tmpfs, as `size=8m`.
    pub fn mount(over: PathBuf, options: &str) -> Self {
        let owner = fs::metadata(&over).expect("a folder to mount over");
        let options = format!("{options},mode=755,uid={},gid={}", owner.uid(), owner.gid());
        must(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&over));
        Self(over)
    }

    /// Shows a folder at another place too, which has to be there.
    pub fn bind(folder: &Path, at: PathBuf) -> Self {
        must(Command::new("mount").arg("--bind").arg(folder).arg(&at));
        Self(at)
    }

    /// Shows these folders as one that nobody can write, the first of two files of a name hiding the other.
    pub fn overlay(folders: &[&Path], at: PathBuf) -> Self {
        let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        let options = format!("lowerdir={}", folders.join(":"));
        must(Command::new("mount").args(["-t", "overlay", "-o", &options, "overlay"]).arg(&at));
        Self(at)
    }

    /// Shows a folder at another place as another file system does, where it can be written too. `beside` is an empty folder on the same disk.
    pub fn shown(folder: &Path, beside: &Path, at: PathBuf) -> Self {
        let (lower, work) = (beside.join("lower"), beside.join("work"));
        [&lower, &work].into_iter().for_each(|folder| fs::create_dir(folder).expect("an own folder"));
        let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), folder.display(), work.display());
        must(Command::new("mount").args(["-t", "overlay", "-o", &options, "overlay"]).arg(&at));
        Self(at)
    }

    /// Changes its options, as `size=64m` or `ro`.
    pub fn change(&self, options: &str) {
        must(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !Command::new("umount").arg("--lazy").arg(&self.0).status().is_ok_and(|status| status.success()) {
            eprintln!("could not unmount {}", self.0.display());
        }
    }
}

fn must(command: &mut Command) {
    let status = command.status().expect("a command of every Linux");
    assert!(status.success(), "{command:?} ended with {status}");
}

//! Folders of this machine that must not lie in each other: what is put into one would change what the other is obeyed or emptied by.

use std::path::{Path, PathBuf};

use crate::complaint::Complaint;
use crate::home::Home;
use crate::keys::Keys;
use crate::settings::{Settings, Transport};

/// Complains about folders of one target that overlap with the home tree's own or with each other.
pub(crate) fn check(settings: &Settings, home: &Home, keys: &mut Keys<'_>) {
    let folders = Folders::of(settings, home);
    tag_directory(&folders, keys);
    if settings.transport != Transport::Local {
        return;
    }
    for (key, folder) in [("archive", &folders.archive), ("bin", &folders.bin)] {
        let Some(folder) = folder.as_deref().filter(|folder| folders.holds_home(folder)) else { continue };
        let message = format!(
            "{key} is {}, where the home tree's own files lie: packages and scripts would get among them",
            folder.display()
        );
        let expected = "a directory that neither holds the home tree nor lies in one of its folders";
        complain(settings, home, keys, key, message, expected);
    }
    let Some(bin) = &folders.bin else { return };
    let outer = [("archive", &folders.archive), ("source", &folders.source)];
    for (what, outer) in outer {
        // By their names alone it was complained about before.
        let is_told = what == "archive" && Path::new(&settings.bin).starts_with(&settings.archive);
        if !is_told && outer.as_deref().is_some_and(|outer| bin.starts_with(outer)) {
            let message = format!("bin lies inside the {what}, where it would be taken for a package");
            complain(settings, home, keys, "bin", message, "two directories, neither of them inside the other");
        }
    }
}

/// What is wrong with a key, at its place; where it is not given, its default is wrong.
fn complain(
    settings: &Settings,
    home: &Home,
    keys: &mut Keys<'_>,
    key: &'static str,
    message: String,
    expected: &'static str,
) {
    match keys.find(key) {
        Some(found) => keys.complain_about(found, message, Some(expected)),
        None => keys.complaints.push(Complaint::whole(
            home.shown(&settings.path).to_owned(),
            format!("{message}; give {key} another one: {expected}"),
        )),
    }
}

/// Complains about a tag directory that holds something else: whatever is no tag is moved aside there.
fn tag_directory(folders: &Folders, keys: &mut Keys<'_>) {
    let Some(found) = keys.find("tags") else { return };
    let tags = &folders.tags;
    let is_at = |other: &Option<PathBuf>| other.as_deref().is_some_and(|other| overlap(tags, other));
    let what = if folders.own.iter().any(|own| overlap(tags, own)) || *tags == folders.all_tags {
        "the home tree's own files lie"
    } else if is_at(&folders.source) {
        "the source lies"
    } else if is_at(&folders.archive) {
        "the archive lies"
    } else if is_at(&folders.bin) {
        "the scripts lie"
    } else {
        return;
    };
    let message = format!("{what} there, and whatever is no tag would be moved to bad/");
    keys.complain_about(found, message, Some("a directory that holds nothing but tags"));
}

/// Folders by their real paths, as far as they exist, since links may lead from one to the other.
struct Folders {
    root: PathBuf,
    /// The home tree's own, but for that of all tags.
    own: [PathBuf; 5],
    all_tags: PathBuf,
    tags: PathBuf,
    source: Option<PathBuf>,
    /// These two where the target is this machine.
    archive: Option<PathBuf>,
    bin: Option<PathBuf>,
}

impl Folders {
    fn of(settings: &Settings, home: &Home) -> Self {
        let own = [home.config_dir(), home.ssh_dir(), home.run_dir(), home.log_dir(), home.state_dir()];
        // A relative one begins at the home directory of whoever runs the agent.
        let here = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let local = |folder: &str| {
            let path = here.join(folder);
            (settings.transport == Transport::Local && path.is_absolute()).then(|| real(&path))
        };
        let has_source = !settings.source.as_os_str().is_empty();
        Self {
            root: real(home.root()),
            own: own.map(|folder| real(&folder)),
            all_tags: real(&home.root().join("tags")),
            tags: real(&settings.tags),
            source: has_source.then(|| real(&settings.source)),
            archive: local(&settings.archive),
            bin: local(&settings.bin),
        }
    }

    /// Whether a folder is the home tree, holds it, or is, holds or lies in one of its own.
    fn holds_home(&self, folder: &Path) -> bool {
        let own = self.own.iter().chain([&self.all_tags]);
        self.root.starts_with(folder) || own.into_iter().any(|own| overlap(own, folder))
    }
}

fn overlap(a: &Path, b: &Path) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

/// A path without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let ahead = |above: &Path| path.strip_prefix(above).map(Path::to_owned).unwrap_or_default();
    let found = path.ancestors().find_map(|above| Some(std::fs::canonicalize(above).ok()?.join(ahead(above))));
    // Joining nothing leaves a slash at the end, which components do not have.
    found.unwrap_or_else(|| path.to_owned()).components().collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use crate::{Home, load_target};

    /// What is wrong with a local target whose config says this too; `HOME` stands for the home tree, `BESIDE` for a folder beside it.
    fn complaints(extra: &str) -> String {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let root = scratch.path().join("home");
        for folder in ["home/config", "home/state", "beside/archive", "beside/source"] {
            fs::create_dir_all(scratch.path().join(folder)).expect("an own folder");
        }
        let beside = scratch.path().join("beside");
        symlink(root.join("config"), beside.join("to config")).expect("a link");
        symlink(beside.join("source"), beside.join("to source")).expect("a link");
        let home = Home::at(&root).expect("a path");
        let name = "perth".parse().expect("a name");
        let given = |key: &str, value: &str| match extra.starts_with(&format!("{key}: ")) {
            true => String::new(),
            false => format!("{key}: {value}\n"),
        };
        let text = format!(
            "transport: local\nsource: BESIDE/source\n{}{}{extra}\n",
            given("archive", "BESIDE/archive"),
            given("bin", "BESIDE/bin")
        );
        let text = text.replace("ABOVE", &scratch.path().display().to_string());
        let text =
            text.replace("BESIDE/", &format!("{}/", beside.display())).replace("HOME", &root.display().to_string());
        fs::write(home.target_config(&name), text).expect("a config");
        load_target(&home, &name).map_or_else(|complaints| complaints.to_string(), |_| String::new())
    }

    #[test]
    fn archive_and_scripts_of_this_machine_keep_off_the_home_tree() {
        for key in ["archive", "bin"] {
            for place in [
                "HOME",
                "HOME/config",
                "HOME/tags/perth",
                "HOME/state/x/y",
                "HOME/run",
                "HOME/log",
                "HOME/ssh",
                "ABOVE",
            ] {
                let said = complaints(&format!("{key}: {place}"));
                assert!(said.contains("the home tree's own files lie"), "{key}: {place}: {said}");
            }
            let said = complaints(&format!("{key}: BESIDE/to config/deeper"));
            assert!(said.contains("the home tree's own files lie"), "{key} through a link: {said}");
            assert_eq!(complaints(&format!("{key}: HOME/{key}")), "", "beside its folders there is room");
        }
    }

    #[test]
    fn scripts_keep_off_source_and_archive_and_tags_off_all_of_them() {
        for (extra, says) in [
            ("bin: BESIDE/source", "bin lies inside the source"),
            ("bin: BESIDE/to source/bin", "bin lies inside the source"),
            ("bin: BESIDE/archive", "bin lies inside the archive"),
            ("bin: BESIDE/archive/bin", "bin lies inside the archive"),
            ("tags: BESIDE/archive/tags", "the archive lies there"),
            ("tags: BESIDE/to source", "the source lies there"),
            ("tags: BESIDE/bin", "the scripts lie there"),
            ("tags: HOME/state", "own files lie there"),
        ] {
            let said = complaints(extra);
            assert_eq!(said.matches("error").count(), 1, "{extra}: {said}");
            assert!(said.contains(says), "{extra}: {said}");
        }
    }
}

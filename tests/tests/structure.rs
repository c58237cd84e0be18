//! The structure of the code: which crate and which folder may import which, and that a name of a type leads to one place. A new folder gets its
//! place in a row here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What each crate may know of ours. Tests may know more.
const CRATES: [(&str, &[&str]); 10] = [
    ("blat-domain", &[]),
    ("blat-paths", &["blat-domain"]),
    ("blat-config", &["blat-domain", "blat-paths"]),
    ("blat-logging", &["blat-domain"]),
    ("blat-packing", &["blat-domain", "blat-paths"]),
    ("blat-receiver", &["blat-domain", "blat-paths"]),
    ("blatd", &["blat-config", "blat-domain", "blat-logging"]),
    ("blat-agent", &["blat-config", "blat-domain", "blat-logging", "blat-packing", "blat-paths"]),
    ("blat-cli", &["blat-config", "blat-domain", "blat-logging", "blat-paths"]),
    ("blat-tests", &[]),
];

/// Folders of a crate from top to bottom: each imports only what stands in rows below its own. The files beside them, such as
/// `main.rs`, may import everything.
const FOLDERS: [(&str, &[&[&str]]); 3] = [
    ("domain/src", &[&["policy"], &["protocol"], &["archive"], &["package"], &["flow"], &["util"]]),
    (
        "receiver/src",
        &[
            &["lane"],
            &["listing", "verify"],
            &["package"],
            &["publish"],
            &["owner"],
            &["staging"],
            &["archive"],
            &["wire"],
        ],
    ),
    (
        "agent/src",
        &[
            &["commands", "daemon"],
            &["sync"],
            &["state"],
            &["releases", "session"],
            &["targets"],
            &["source"],
            &["transport"],
            &["ui", "flow"],
            &["model"],
        ],
    ),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What `cargo metadata` says of the workspace.
fn packages() -> Vec<serde_json::Value> {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--locked"])
        .current_dir(repository())
        .output()
        .expect("cargo, which runs this test");
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let mut metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).expect("JSON");
    match metadata["packages"].take() {
        serde_json::Value::Array(packages) => packages,
        other => panic!("no packages: {other}"),
    }
}

#[test]
fn crates_know_only_what_stands_below_them() {
    let (packages, mut found) = (packages(), BTreeMap::new());
    for package in &packages {
        let imports = package["dependencies"].as_array().expect("dependencies").iter();
        let ours = imports.filter(|import| import["kind"].is_null() && import["path"].is_string());
        let mut ours: Vec<_> = ours.map(|import| import["name"].as_str().expect("a name")).collect();
        ours.sort_unstable();
        found.insert(package["name"].as_str().expect("a name"), ours);
    }
    let allowed: BTreeMap<_, _> = CRATES.into_iter().map(|(name, below)| (name, below.to_vec())).collect();
    for (name, imports) in &found {
        let allowed = allowed.get(name).unwrap_or_else(|| panic!("{name} has no row in CRATES"));
        for import in imports {
            assert!(allowed.contains(import), "{name} imports {import}");
        }
    }
    assert_eq!(found.len(), allowed.len(), "CRATES names a crate that is gone");
}

/// The Rust files below a folder, with the modules that lead to them.
fn modules(folder: &Path) -> Vec<(PathBuf, Vec<String>)> {
    let mut found = Vec::new();
    let mut folders = vec![(folder.to_owned(), Vec::new())];
    while let Some((folder, path)) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the crate").flatten() {
            let name = entry.file_name().into_string().expect("a name that is text");
            let mut path = path.clone();
            match name.strip_suffix(".rs") {
                Some("mod" | "main" | "lib") => found.push((entry.path(), path)),
                Some(stem) => {
                    path.push(stem.to_owned());
                    found.push((entry.path(), path));
                }
                None => {
                    path.push(name);
                    folders.push((entry.path(), path));
                }
            }
        }
    }
    found
}

/// Whether a module is there for tests alone.
fn is_for_tests(path: &[String]) -> bool {
    path.iter().any(|module| module == "tests" || module == "fake")
}

/// The folder that a line of code names by `crate::` or by enough `super::`.
fn named(line: &str, depth: usize) -> Option<&str> {
    let line = line.split("//").next()?;
    let start = line.find("crate::").or_else(|| line.find("super::"))?;
    let mut segments = line[start..].split("::").peekable();
    let climbs = match segments.peek().copied() {
        Some("crate") => segments.by_ref().take(1).count() > 0,
        _ => {
            let mut steps = 0;
            while segments.next_if_eq(&"super").is_some() {
                steps += 1;
            }
            steps >= depth
        }
    };
    let end = |text: &str| text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len());
    segments.next().filter(|_| climbs).map(|segment| &segment[..end(segment)])
}

#[test]
fn folders_import_only_what_stands_below_them() {
    for (root, rows) in FOLDERS {
        let height = |folder: &str| rows.iter().rev().position(|row| row.contains(&folder));
        let mut imports = 0;
        for (file, path) in modules(&repository().join(root)) {
            let Some(folder) = path.first() else { continue };
            let is_folder = repository().join(root).join(folder).is_dir();
            let Some(own) = height(folder) else {
                assert!(!is_folder, "{root}/{folder} has no row in FOLDERS");
                continue;
            };
            // What only tests import may come from anywhere.
            if is_for_tests(&path) {
                continue;
            }
            let text = fs::read_to_string(&file).expect("a file of the crate");
            let code = text.split("#[cfg(test)]\nmod ").next().expect("the beginning");
            for line in code.lines() {
                let Some(other) = named(line, path.len()).filter(|other| other != folder) else { continue };
                let Some(below) = height(other) else { continue };
                assert!(below < own, "{}: {folder} imports {other}: {}", file.display(), line.trim());
                imports += 1;
            }
        }
        assert!(imports > 20, "{root}: only {imports} imports between folders were found, so the check sees none");
    }
}

/// The type that a line at the margin defines.
fn defined(line: &str) -> Option<&str> {
    let line = match line.strip_prefix("pub(") {
        Some(rest) => rest.split_once(") ")?.1,
        None => line.strip_prefix("pub ").unwrap_or(line),
    };
    let (keyword, rest) = line.strip_prefix("unsafe ").unwrap_or(line).split_once(' ')?;
    let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
    ["struct", "enum", "union", "trait", "type"].contains(&keyword).then(|| &rest[..end])
}

#[test]
fn no_type_name_stands_twice_in_a_crate() {
    let (mut twice, mut types) = (Vec::new(), 0);
    for package in packages() {
        let folder = Path::new(package["manifest_path"].as_str().expect("a path")).with_file_name("src");
        if !folder.is_dir() {
            continue;
        }
        let mut found = BTreeMap::<String, PathBuf>::new();
        for (file, path) in modules(&folder) {
            if is_for_tests(&path) {
                continue;
            }
            let text = fs::read_to_string(&file).expect("a file of the crate");
            for name in text.lines().filter_map(defined) {
                types += 1;
                if let Some(other) = found.insert(name.to_owned(), file.clone()) {
                    twice.push(format!("{name}: {} and {}", other.display(), file.display()));
                }
            }
        }
    }
    assert!(twice.is_empty(), "each type needs a name of its own:\n{}", twice.join("\n"));
    assert!(types > 500, "only {types} types were found, so the check sees none");
}

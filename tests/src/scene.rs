//! What a failing test shows of its lab: there is no second look, since the lab is gone by then.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Of each text file, only so many of its last lines.
const LINES: usize = 80;

/// Everything that may explain a failure: what lies in the lab, its configs, its logs.
pub(crate) fn scene(lab: &Path) -> String {
    let mut text = String::from("--- what lies in the lab (package contents left out)\n");
    let mut files = Vec::new();
    list(lab, lab, 0, &mut text, &mut files);
    for path in files {
        let content = fs::read(&path).unwrap_or_default();
        let content = String::from_utf8_lossy(&content);
        let lines: Vec<&str> = content.lines().collect();
        let last = lines.len().saturating_sub(LINES);
        let name = path.strip_prefix(lab).unwrap_or(&path).display();
        writeln!(text, "--- {name}{}", if last > 0 { " (its end)" } else { "" }).expect("writing to a string");
        writeln!(text, "{}", lines[last..].join("\n")).expect("writing to a string");
    }
    text
}

fn list(lab: &Path, folder: &Path, depth: usize, text: &mut String, files: &mut Vec<PathBuf>) {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.strip_prefix(lab).unwrap_or(&path).display();
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        let mode = found.permissions().mode() & 0o7777;
        writeln!(text, "{mode:04o} {:>10} {name}", found.len()).expect("writing to a string");
        let extension = path.extension().and_then(|extension| extension.to_str());
        if found.is_file() && matches!(extension, Some("log" | "conf" | "reason")) {
            files.push(path.clone());
        }
        // Deep enough for NAME/VERSION on the target, not for what is in them.
        if found.is_dir() && depth < 4 {
            list(lab, &path, depth + 1, text, files);
        }
    }
}

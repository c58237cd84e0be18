//! Looks at the targets all the time, and says in the end whether each change was right and is in the history.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use super::model::{Package, TARGETS};
use super::world::World;

#[derive(Debug, Default)]
pub(crate) struct Witness {
    targets: BTreeMap<&'static str, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    there: BTreeSet<Package>,
    /// What may have been deleted rightly, since there was a moment in which nothing wanted it.
    was_free: BTreeSet<Package>,
}

impl Witness {
    /// Notes what came and went since the last look; fails where something went that was wanted all the time.
    pub(crate) fn look(&mut self, world: &World) {
        for target in TARGETS {
            let seen = self.targets.entry(target).or_default();
            let there: BTreeSet<Package> = world.visible(target).into_iter().collect();
            let known = world.model.built.iter().filter(|package| !world.model.is_safe(target, package));
            seen.was_free.extend(known.cloned());
            let changed: Vec<Package> = there.symmetric_difference(&seen.there).cloned().collect();
            for package in &changed {
                let went = !there.contains(package);
                println!("  {target}: {}@{} {}", package.0, package.1, if went { "went" } else { "came" });
                assert!(world.model.built.contains(package), "{target} holds {package:?}, which nobody built");
                assert!(
                    !went || seen.was_free.contains(package),
                    "{target} lost {package:?}, which was wanted all the time"
                );
                if !went {
                    seen.was_free.remove(package);
                }
            }
            seen.there = there;
        }
    }

    /// Fails unless the history of each target leads to what is there.
    pub(crate) fn judge(&self, world: &World) {
        for target in TARGETS {
            let seen = &self.targets[target];
            let mut told: BTreeSet<Package> = BTreeSet::new();
            // In the order in which it was written: the command sorts by times, and the clock was set.
            let path = world.lab.home().join(format!("state/history/{target}.jsonl"));
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            for line in text.lines() {
                let entry: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
                let Some((name, version)) = entry["package"].as_str().and_then(|package| package.split_once('@'))
                else {
                    continue;
                };
                let package = (name.to_owned(), version.to_owned());
                match entry["deed"].as_str() {
                    Some("sent" | "replaced" | "repaired" | "linked" | "kept") => {
                        told.insert(package);
                    }
                    Some("deleted") => {
                        told.remove(&package);
                    }
                    _ => {}
                }
            }
            let unexplained: Vec<_> = told.symmetric_difference(&seen.there).collect();
            assert!(unexplained.is_empty(), "the history of {target} does not explain {unexplained:?}\n{text}");
            println!("{target}: {} there", seen.there.len());
        }
    }
}

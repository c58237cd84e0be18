//! Which settings are in force: valid ones that get into no other target's way.
//!
//! Of two targets that claim the same archive or tags, the one whose settings are in force keeps them, and the later one waits until the other
//! gives way. At the master's start the order of names decides. Nothing here touches a file or a process.

use std::collections::{BTreeMap, BTreeSet};

use blat_config::Claim;
use blat_domain::package::name::TargetName;

use crate::fleet::target_status::Seen;

/// What a target's file holds now.
#[derive(Debug)]
pub(crate) enum Loaded {
    /// Valid settings.
    Valid(Box<Claim>),
    /// None that could be taken.
    Invalid {
        /// What the complaints come to, as [`blat_config::Complaints::verdict`] has it.
        verdict: &'static str,
        /// All complaints about it.
        error: String,
    },
    /// There is no file.
    Removed,
}

/// All targets' settings.
#[derive(Debug, Default)]
pub(crate) struct InForce {
    claims: BTreeMap<TargetName, Claim>,
    /// Targets whose file is not in force as it is, and what was said about it. What is wrong may be elsewhere than in the file.
    refused: BTreeMap<TargetName, Seen>,
}

impl InForce {
    /// The targets that are to be looked at again although nothing is known to have changed.
    pub(crate) fn refused(&self) -> impl Iterator<Item = &TargetName> {
        self.refused.keys()
    }

    /// Takes note of what some files hold now, and says what comes of it: for each of the `changed` ones, and for every other whose lot changes
    /// by that. All are judged together, so that targets whose files change at once, say by a default, may take each other's places.
    pub(crate) fn judge(
        &mut self,
        loaded: BTreeMap<TargetName, Loaded>,
        changed: &BTreeSet<TargetName>,
    ) -> Vec<(TargetName, Seen)> {
        let mut seen = BTreeMap::new();
        let mut candidates = BTreeMap::new();
        for (name, loaded) in loaded {
            match loaded {
                Loaded::Valid(claim) => drop(candidates.insert(name, *claim)),
                Loaded::Invalid { verdict, error } => drop(seen.insert(name, Seen::Invalid { verdict, error })),
                Loaded::Removed => {
                    self.claims.remove(&name);
                    seen.insert(name, Seen::Removed);
                }
            }
        }
        let conflicting = self.conflicting(&candidates);
        for (name, claim) in candidates {
            if let Some(error) = conflicting.get(&name) {
                seen.insert(name, Seen::Conflicting { error: error.clone() });
            } else {
                seen.insert(name.clone(), Seen::Valid { kind: claim.settings().kind().to_string() });
                self.claims.insert(name, claim);
            }
        }
        seen.retain(|name, seen| {
            let is_news = match seen {
                Seen::Valid { .. } | Seen::Removed => self.refused.remove(name).is_some(),
                Seen::Invalid { .. } | Seen::Conflicting { .. } => {
                    self.refused.insert(name.clone(), seen.clone()).as_ref() != Some(seen)
                }
            };
            is_news || changed.contains(name)
        });
        seen.into_iter().collect()
    }

    /// The candidates that cannot be taken, and why. What is in force for one of these stays so, and may be in the way of others.
    fn conflicting(&self, candidates: &BTreeMap<TargetName, Claim>) -> BTreeMap<TargetName, String> {
        let mut conflicting = BTreeMap::new();
        loop {
            let stays = |name: &TargetName| !candidates.contains_key(name) || conflicting.contains_key(name);
            let mut taken: Vec<&Claim> =
                self.claims.iter().filter(|(name, _)| stays(name)).map(|(_, claim)| claim).collect();
            let mut open: Vec<_> = candidates.iter().filter(|(name, _)| !conflicting.contains_key(*name)).collect();
            // Those that run go first.
            open.sort_by_key(|(name, _)| !self.claims.contains_key(*name));
            let mut found = None;
            for (name, claim) in open {
                let others = taken.iter().filter(|other| other.settings().name != *name);
                let why: Vec<String> = others.flat_map(|other| other.conflicts(claim)).collect();
                if !why.is_empty() {
                    found = Some((name.clone(), said(name, &why)));
                    break;
                }
                taken.push(claim);
            }
            match found {
                Some((name, why)) => drop(conflicting.insert(name, why)),
                None => return conflicting,
            }
        }
    }
}

/// The complaint in the form of all others.
fn said(name: &TargetName, why: &[String]) -> String {
    let lines: Vec<String> = why
        .iter()
        .map(|why| {
            format!(
                "error: {why}\n  --> config/{name}.conf\n   = expected a place of its own for each target; this one waits \
                 until the other's config gives way"
            )
        })
        .collect();
    lines.join("\n\n")
}

#[cfg(test)]
mod tests {
    use blat_config::{Home, load_target};

    use super::*;

    /// A home tree, and the settings in force.
    struct World {
        scratch: tempfile::TempDir,
        in_force: InForce,
    }

    impl World {
        fn new() -> Self {
            let scratch = tempfile::tempdir().expect("a scratch directory");
            std::fs::create_dir(scratch.path().join("config")).expect("config/");
            Self { scratch, in_force: InForce::default() }
        }

        fn load(&self, target: &str, archive: &str) -> (TargetName, Loaded) {
            let home = Home::locate(Some(self.scratch.path())).expect("a home tree");
            let name: TargetName = target.parse().expect("a name");
            let text = format!("host: h\nsource: /a\narchive: {archive}\n");
            std::fs::write(home.target_config(&name), text).expect("an own folder");
            let settings = load_target(&home, &name).unwrap_or_else(|complaints| panic!("{complaints}"));
            (name, Loaded::Valid(Box::new(Claim::new(settings))))
        }

        /// These targets' files name these archives now; none: there is no file.
        fn change(&mut self, files: &[(&str, &str)]) -> Vec<String> {
            let load = |(target, archive): &(&str, &str)| match *archive {
                "" => (target.parse().expect("a name"), Loaded::Removed),
                archive => self.load(target, archive),
            };
            let loaded: BTreeMap<_, _> = files.iter().map(load).collect();
            let changed = loaded.keys().cloned().collect();
            self.judge(loaded, &changed)
        }

        /// The refused ones are looked at again; their files still name these archives.
        fn again(&mut self, files: &[(&str, &str)]) -> Vec<String> {
            let loaded = files.iter().map(|(target, archive)| self.load(target, archive)).collect();
            self.judge(loaded, &BTreeSet::new())
        }

        fn judge(&mut self, loaded: BTreeMap<TargetName, Loaded>, changed: &BTreeSet<TargetName>) -> Vec<String> {
            let word = |seen: &Seen| match seen {
                Seen::Valid { .. } => "valid",
                Seen::Conflicting { .. } => "conflicting",
                Seen::Invalid { .. } => "invalid",
                Seen::Removed => "removed",
            };
            self.in_force.judge(loaded, changed).iter().map(|(name, seen)| format!("{name} {}", word(seen))).collect()
        }
    }

    #[test]
    fn the_later_one_waits_until_the_one_that_runs_gives_way() {
        let mut world = World::new();
        assert_eq!(world.change(&[("perth", "/srv/x")]), ["perth valid"]);
        // Its name comes first, but it comes later.
        assert_eq!(world.change(&[("hobart", "/srv/x/")]), ["hobart conflicting"]);
        assert_eq!(world.again(&[("hobart", "/srv/x")]), [""; 0], "it was said");
        assert_eq!(world.change(&[("perth", "/srv/x"), ("hobart", "/srv/x")]), ["hobart conflicting", "perth valid"]);
        assert_eq!(world.change(&[("perth", "")]), ["perth removed"]);
        assert_eq!(world.again(&[("hobart", "/srv/x")]), ["hobart valid"]);
        assert_eq!(world.change(&[("perth", "/srv/x/y")]), ["perth conflicting"]);
        assert_eq!(world.in_force.refused().count(), 1);
    }

    #[test]
    fn at_the_start_names_decide() {
        let mut world = World::new();
        let files = [("sydney", "/srv/x"), ("perth", "/srv/x"), ("hobart", "/srv/y")];
        assert_eq!(world.change(&files), ["hobart valid", "perth valid", "sydney conflicting"]);
    }

    #[test]
    fn what_changes_at_once_may_change_places_and_what_is_refused_stays_in_force() {
        let mut world = World::new();
        world.change(&[("a", "/srv/a"), ("b", "/srv/b"), ("c", "/srv/c")]);
        assert_eq!(world.change(&[("a", "/srv/b"), ("b", "/srv/a")]), ["a valid", "b valid"]);
        // `a` cannot have `c`'s, so it stays where it is, and `b` cannot have that.
        assert_eq!(world.change(&[("a", "/srv/c"), ("b", "/srv/b")]), ["a conflicting", "b conflicting"]);
        assert_eq!(world.change(&[("c", "/srv/d")]), ["c valid"]);
        assert_eq!(world.again(&[("a", "/srv/c"), ("b", "/srv/b")]), ["a valid", "b valid"]);
    }
}

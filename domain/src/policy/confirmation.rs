//! What a sync holds back until an operator confirms it, and what a confirmation covers: what was shown, and nothing that came later.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The most names that are kept of one kind. Of more, only how many they are: that is as much as anybody looks at.
const MOST_NAMES: usize = 100_000;
/// New packages that are named.
const NAMED: usize = 3;

/// What one sync held back and an operator may confirm. Confirming that nothing was held back is leave for whatever one sync finds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBack {
    /// Releases that are missing or lost their packages, each in the words in which it was shown.
    releases: Names,
    /// Packages that would have been marked or deleted.
    packages: Names,
    /// Whether those are more than `max_delete`.
    is_past_limit: bool,
    /// Whether nobody knows what tags brought until shortly ago.
    #[serde(default)]
    is_by_new_memory: bool,
}

/// A set of names, and how many there were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Names {
    count: usize,
    /// All of them; none where they are too many.
    names: BTreeSet<String>,
}

impl Names {
    fn of(names: impl IntoIterator<Item = String>) -> Self {
        let mut names: BTreeSet<String> = names.into_iter().collect();
        let count = names.len();
        if count > MOST_NAMES {
            names.clear();
        }
        Self { count, names }
    }

    /// Whether `now` has nothing more. Where the names are not known, their number has to do.
    fn cover(&self, now: &Self) -> bool {
        now.count <= self.count && (self.names.len() < self.count || now.names.is_subset(&self.names))
    }
}

impl HeldBack {
    /// These releases, each in the words in which it is shown, and these packages, which are or are not more than `max_delete`.
    pub fn new(
        releases: impl IntoIterator<Item = String>,
        packages: impl IntoIterator<Item = String>,
        is_past_limit: bool,
    ) -> Self {
        Self { releases: Names::of(releases), packages: Names::of(packages), is_past_limit, is_by_new_memory: false }
    }

    /// The same, also held back since nobody knows what tags brought until shortly ago.
    #[must_use]
    pub fn by_new_memory(self) -> Self {
        Self { is_by_new_memory: true, ..self }
    }

    /// Whether nothing was held back.
    pub fn is_empty(&self) -> bool {
        self.releases.count == 0 && !self.is_past_limit && !self.is_by_new_memory
    }

    /// What is held back `now` and was not when this was confirmed, for the operator; nothing where the confirmation covers all of it.
    pub fn lacks(&self, now: &Self) -> Option<String> {
        let (releases, packages) = (self.releases.cover(&now.releases), self.packages.cover(&now.packages));
        let limit = self.is_past_limit || !now.is_past_limit;
        let memory = self.is_by_new_memory || !now.is_by_new_memory;
        if self.is_empty() || (releases && packages && limit && memory) {
            return None;
        }
        let mut news = Vec::new();
        if !releases {
            news.push("other releases".to_owned());
        }
        if !packages {
            let named: Vec<&str> =
                now.packages.names.difference(&self.packages.names).take(NAMED).map(String::as_str).collect();
            let such_as = if named.is_empty() { String::new() } else { format!(", such as {}", named.join(", ")) };
            news.push(format!("other packages{such_as}"));
        }
        if !limit {
            news.push("more than max_delete".to_owned());
        }
        if !memory {
            news.push("what tags brought is not known".to_owned());
        }
        Some(format!("confirmed for {self}, now {now}: {}; confirm again if that is right", news.join("; ")))
    }
}

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.releases.count > 0 {
            write!(f, "{} and ", counted(self.releases.count, "release"))?;
        }
        f.write_str(&counted(self.packages.count, "package"))
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(releases: &[&str], packages: &[&str], is_past_limit: bool) -> HeldBack {
        let all = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        HeldBack::new(all(releases), all(packages), is_past_limit)
    }

    #[test]
    fn a_confirmation_covers_what_was_shown_and_less_of_it() {
        let shown = held(&["r", "s"], &["a@1", "b@1"], true);
        for now in [held(&["r", "s"], &["a@1", "b@1"], true), held(&["s"], &["b@1"], false), held(&[], &["a@1"], true)]
        {
            assert_eq!(shown.lacks(&now), None, "{now}");
        }
        let nothing = HeldBack::default();
        assert!(
            nothing.is_empty() && nothing.lacks(&shown).is_none(),
            "without an earlier hold it covers what one sync finds"
        );
        let json = serde_json::to_string(&shown).expect("JSON");
        assert_eq!(serde_json::from_str::<HeldBack>(&json).expect("as it was kept"), shown);
    }

    #[test]
    fn another_release_kind_or_package_is_not_covered() {
        let shown = held(&["r"], &["a@1", "b@1"], false);
        for (now, why) in [
            (
                held(&["s"], &["a@1", "b@1"], false),
                "1 release and 2 packages, now 1 release and 2 packages: other releases",
            ),
            (held(&["r"], &["a@1", "b@1", "c@1"], false), "now 1 release and 3 packages: other packages, such as c@1"),
            (held(&["r"], &["c@1"], false), "other packages, such as c@1"),
            (held(&["r"], &["a@1"], true), "more than max_delete"),
            (held(&["r"], &["a@1"], false).by_new_memory(), "what tags brought is not known"),
        ] {
            let text = shown.lacks(&now).expect("it is another hold");
            assert!(text.contains(why) && text.starts_with("confirmed for 1 release and 2 packages, now"), "{text}");
        }
    }

    #[test]
    fn of_a_multitude_the_number_counts() {
        let many = |count: usize| HeldBack::new([], (0..count).map(|n| format!("p@{n}")), true);
        let shown = many(MOST_NAMES + 2);
        assert!(shown.packages.names.is_empty());
        assert_eq!((shown.lacks(&many(MOST_NAMES + 2)), shown.lacks(&many(3))), (None, None));
        assert!(shown.lacks(&many(MOST_NAMES + 3)).is_some());
        assert!(many(MOST_NAMES).lacks(&shown).is_some());
    }
}

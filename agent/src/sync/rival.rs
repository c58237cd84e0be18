//! Another target that has what this one would take. The master sees to it for its agents; somebody who runs one by hand is told here.

use blat_config::pid_file::PidFile;
use blat_config::{Claim, Home, Settings, load_target};
use blat_domain::package::name::TargetName;

/// Why this target cannot be served now: an agent runs for another one with the same archive or tags.
pub(crate) fn find(home: &Home, settings: &Settings) -> Option<String> {
    let names = match home.target_names() {
        Ok(names) => names,
        Err(error) => {
            tracing::warn!(%error, "cannot look whether another target has the same archive");
            return None;
        }
    };
    let runs = |name: &TargetName| PidFile::holder(&home.agent_pid(name)).is_ok_and(|holder| holder.is_some());
    let mut others = names.into_iter().filter(|name| *name != settings.name && runs(name)).peekable();
    // Looking at the folders is for those who need it.
    others.peek()?;
    let own = Claim::new(settings.clone());
    // One whose file is not valid goes on with settings that nobody else knows.
    let mut others = others.filter_map(|name| load_target(home, &name).ok()).map(Claim::new);
    others.find_map(|other| own.conflicts(&other).into_iter().next()).map(|why| format!("{why}; that one's agent runs"))
}

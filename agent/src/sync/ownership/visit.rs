//! Leaving a number in the archive by which a memory that is put back later is known, see [`crate::state::lasting`].

use blat_domain::archive::record::{Claim, Found, Record};
use blat_domain::archive::title::Title;

use super::Contact;
use crate::sync::context::SyncContext;

impl SyncContext {
    /// Whether the archive is ours, and our memory lacks what was done there last: it is lost, an older one was put back, or somebody else served
    /// the archive until now.
    pub(crate) fn is_new_to_memory(&self, title: &Title) -> bool {
        match &title.found {
            Found::Record(record) if record.owner != self.owner => false,
            // An adoption replaces the number, and makes a record that no memory knows yet.
            Found::Record(record) => {
                !self.lasting.knows(record) || !(title.is_adopted() || self.lasting.knows_visit(&title.visit))
            }
            // It will be ours.
            Found::Nothing => !self.lasting.knows_visit(&title.visit),
            Found::Malformed(_) => false,
        }
    }

    /// Leaves a new number in an archive that is ours. Where it cannot be left, all goes on: it is tried again, and until then no older memory is
    /// known by it.
    pub(super) async fn leave_visit(&self) {
        let lasting = self.lasting.clone();
        let noted = tokio::task::spawn_blocking(move || lasting.new_visit()).await;
        let number = match noted.unwrap_or_else(|error| Err(format!("noting it down failed: {error}"))) {
            Ok(number) => number,
            Err(why) => {
                // What is wrong with the memory is reported by itself.
                tracing::debug!("no number is left in the archive: {why}");
                return;
            }
        };
        let visit = Record { archive: number, owner: self.owner.clone() };
        match self.target.claim(Claim::Visit, &visit).await {
            Ok(title) if title.visit == Found::Record(visit) => {}
            Ok(_) => {
                tracing::debug!("no number is left in the archive: it has another owner by now, or another number");
            }
            Err(error) => {
                self.lasting.visit_failed();
                let target_name = &self.settings.name;
                tracing::warn!(
                    %target_name,
                    "cannot write .dpkg_archive/visit in the archive: {error}; this is tried again; until then the agent cannot tell an older \
                     config/.known/{target_name}.json that somebody puts back from the present one"
                );
            }
        }
    }

    /// Leaves a new number once tags have brought something, and no more often than that makes sense. Nobody waits for it.
    pub(crate) fn leave_visit_behind(&self) {
        if self.contact() == Contact::Made(None)
            && let Some(wait) = self.lasting.begin_visit()
        {
            let one = self.clone();
            drop(tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                one.leave_visit().await;
            }));
        }
    }
}

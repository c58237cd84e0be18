//! What fits: packages that a target has no room for are held back before anything is sent, and those that fit go on.

use serde::{Deserialize, Serialize};

use crate::policy::plan::{Blocker, Held, Plan, Size};
use crate::util::units::show_size;

/// What an entry costs on a disk beside its bytes: a block, as `receive_package` reckons too.
const ENTRY: u64 = 4 << 10;

/// The most bytes of an object in a bucket, and so of a package that goes there: S3 documents it as the limit of uploads in parts
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>).
pub const MOST_IN_OBJECT: u64 = 5 << 40;

/// What is said of a package of more than `most` bytes.
pub fn too_large(most: u64) -> String {
    let most = show_size(most);
    format!(
        "the package has more than {most}, which is the most that an object of a bucket holds; make it smaller, or exclude it"
    )
}

/// How much a target can still take, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Free on its disk beyond the reserve and what is under way; none where it did not say.
    pub disk: Option<u64>,
    /// Left below `max_size`; none where there is no limit.
    pub archive: Option<u64>,
    /// The most that one package may have; none where there is no limit.
    pub package: Option<u64>,
}

/// Which limit a package meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpaceLimit {
    /// The disk, less its reserve.
    Disk,
    /// The archive's `max_size`.
    Archive,
}

impl Size {
    /// What this takes on a disk, in bytes.
    pub fn on_disk(self) -> u64 {
        self.bytes.saturating_add(self.entries.saturating_mul(ENTRY))
    }
}

impl Capacity {
    /// Takes the room for one package.
    ///
    /// # Errors
    /// [`Blocker::NoRoom`] with the limit that is in the way, or [`Blocker::Unusable`] where no room would help; then nothing is taken.
    pub fn take(&mut self, size: Size) -> Result<(), Blocker> {
        if let Some(most) = self.package.filter(|most| *most < size.bytes) {
            return Err(Blocker::Unusable { why: too_large(most) });
        }
        let limits = [(SpaceLimit::Disk, self.disk, size.on_disk()), (SpaceLimit::Archive, self.archive, size.bytes)];
        for (limit, left, needs) in limits {
            if let Some(left) = left.filter(|left| *left < needs) {
                return Err(Blocker::NoRoom { limit, needs, short: needs - left });
            }
        }
        self.disk = self.disk.map(|left| left - size.on_disk());
        self.archive = self.archive.map(|left| left - size.bytes);
        Ok(())
    }
}

impl Plan {
    /// Holds back the steps that `room` has no place for. They keep their order, so pinned packages get theirs first, and a package that
    /// does not fit does not keep smaller ones from being sent. A replacement needs its full size: both are there for a moment.
    pub fn fit(&mut self, mut room: Capacity) {
        let mut fitting = Vec::with_capacity(self.steps.len());
        for step in std::mem::take(&mut self.steps) {
            match room.take(step.size) {
                Ok(()) => fitting.push(step),
                Err(hold) => self.held.push(Held { package: step.package, hold }),
            }
        }
        self.steps = fitting;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::plan::{Action, Step};
    use crate::policy::release::Reason;
    use proptest::prelude::*;

    fn step(name: &str, bytes: u64) -> Step {
        let package = format!("{name}@1").parse().expect("a package");
        let size = Size { bytes, entries: 0 };
        Step { action: Action::Send, package, time: 0, size, reasons: [Reason::Pinned].into() }
    }

    fn names(plan: &Plan) -> Vec<String> {
        plan.steps.iter().map(|step| step.package.name.to_string()).collect()
    }

    #[test]
    fn what_does_not_fit_is_held_with_what_it_lacks_and_the_rest_goes_on() {
        let mut plan = Plan { steps: vec![step("a", 10), step("b", 100), step("c", 20)], ..Plan::default() };
        plan.fit(Capacity { disk: Some(50), archive: None, package: None });
        assert_eq!(names(&plan), ["a", "c"]);
        assert_eq!(plan.held[0].hold, Blocker::NoRoom { limit: SpaceLimit::Disk, needs: 100, short: 60 });
        assert!(!plan.is_complete());
    }

    #[test]
    fn no_package_is_larger_than_what_one_may_have_and_others_go_on() {
        let mut plan =
            Plan { steps: vec![step("a", MOST_IN_OBJECT + 1), step("b", MOST_IN_OBJECT)], ..Plan::default() };
        plan.fit(Capacity { package: Some(MOST_IN_OBJECT), ..Capacity::default() });
        assert_eq!(names(&plan), ["b"]);
        let why = plan.held[0].hold.to_string();
        assert!(why.contains("more than 5.0 TiB") && !plan.held[0].hold.is_waiting(), "{why}");
    }

    #[test]
    fn an_archive_may_not_outgrow_its_size() {
        let mut plan = Plan { steps: vec![step("a", 10), step("b", 10)], ..Plan::default() };
        plan.fit(Capacity { disk: Some(1000), archive: Some(15), package: None });
        assert_eq!(names(&plan), ["a"]);
        assert_eq!(plan.held[0].hold, Blocker::NoRoom { limit: SpaceLimit::Archive, needs: 10, short: 5 });
    }

    #[test]
    fn without_limits_everything_fits() {
        let mut plan = Plan { steps: vec![step("a", u64::MAX)], ..Plan::default() };
        plan.fit(Capacity::default());
        assert_eq!(plan.steps.len(), 1);
    }

    proptest! {
        #[test]
        fn never_more_is_sent_than_there_is_room_and_nothing_is_forgotten(
            sizes in proptest::collection::vec(0u64..100, 0..20), disk in 0u64..500, archive in 0u64..500,
        ) {
            let steps: Vec<Step> = sizes.iter().enumerate().map(|(n, bytes)| step(&format!("p{n}"), *bytes)).collect();
            let mut plan = Plan { steps, ..Plan::default() };
            plan.fit(Capacity { disk: Some(disk), archive: Some(archive), package: None });
            prop_assert!(plan.size().bytes <= disk.min(archive));
            prop_assert_eq!(plan.steps.len() + plan.held.len(), sizes.len());
            prop_assert!(plan.steps.is_sorted_by_key(|step| step.package.name.as_str()[1..].parse::<u32>().expect("a number")));
        }
    }
}

//! User namespaces: containers without root, `unshare`.
//!
//! Such a namespace knows some of the machine's users, each by a number of its own. All others, root of the machine and every stranger alike,
//! look like one and the same: the overflow user, mostly 65534. Nothing that a process can ask says which of them it is, so whatever belongs
//! to that number is treated as a stranger's. OpenSSH does the same.

use std::fs;
use std::sync::OnceLock;

use crate::UNKNOWN;

/// How many numbers of users there are: the map of the machine's own namespace has them all.
const ALL: u64 = 4_294_967_295;

/// What the system says of this process's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Namespace {
    /// Whether every user of the machine is known by the number that the machine has for him.
    is_the_machines: bool,
    /// Whether no user stands for several.
    is_whole: bool,
    /// The number that stands for all who are not known.
    overflow: u32,
}

impl Namespace {
    fn get() -> Self {
        static NAMESPACE: OnceLock<Namespace> = OnceLock::new();
        *NAMESPACE.get_or_init(|| {
            let map = fs::read_to_string("/proc/self/uid_map").ok();
            Self::read(map.as_deref(), fs::read_to_string("/proc/sys/kernel/overflowuid").ok().as_deref())
        })
    }

    /// A kernel without such namespaces has no map.
    fn read(map: Option<&str>, overflow: Option<&str>) -> Self {
        let overflow = overflow.and_then(|text| text.trim().parse().ok()).unwrap_or(UNKNOWN);
        let Some(map) = map else { return Self { is_the_machines: true, is_whole: true, overflow } };
        let counts = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
        let is_whole = counts.sum::<u64>() >= ALL;
        Self { is_the_machines: map.split_whitespace().eq(["0", "0", "4294967295"]), is_whole, overflow }
    }

    fn is_known(self, user: u32) -> bool {
        self.is_whole || user != self.overflow
    }
}

/// Whether this number stands for one user, so that who has it can be told from everybody else.
pub fn is_known(user: u32) -> bool {
    Namespace::get().is_known(user)
}

/// Whether this process sees the machine's users as the machine does, and root here is root there.
pub fn is_the_machines() -> bool {
    Namespace::get().is_the_machines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overflow_user_is_nobody_in_particular_where_not_all_are_mapped() {
        let known = |map: Option<&str>, user| Namespace::read(map, Some("65534\n")).is_known(user);
        let machine = Some("         0          0 4294967295\n");
        assert!(known(machine, 65_534) && known(None, 65_534), "there it is a user like any other");
        for map in ["0 1000 1\n", "0 1000 1\n1 100000 65536\n", ""] {
            assert!(!known(Some(map), 65_534) && known(Some(map), 0), "{map:?}");
        }
        assert!(!Namespace::read(Some("0 1000 1"), Some("99")).is_known(99));
        assert!(!Namespace::read(Some("0 1000 1"), None).is_known(UNKNOWN));
        assert!(
            Namespace::read(machine, None).is_the_machines && !Namespace::read(Some("0 1 5"), None).is_the_machines
        );
    }
}

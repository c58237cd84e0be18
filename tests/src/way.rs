//! By what way the targets of a lab are reached and served: a suite may run by several, so it says at the beginning by which its labs are made.

use crate::lab::Lab;
use crate::process;

/// What a target's config says of this, where the test says nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    transport: &'static str,
    receiver: &'static str,
}

impl Way {
    /// OpenSSH's client, and scripts.
    pub const ORDINARY: Self = Self { transport: "openssh", receiver: "never" };
    /// OpenSSH's client, and the receiver.
    pub const BY_RECEIVER: Self = Self { transport: "openssh", receiver: "auto" };
    /// The client within the agent, and scripts.
    pub const OVER_LIBSSH2: Self = Self { transport: "libssh2", receiver: "never" };

    /// A lab whose targets go this way: [`Lab::new`] is one of the ordinary way.
    pub fn lab(self, name: &str) -> Lab {
        if self.receiver != "never" {
            // Without it scripts would serve, and the tests tell nothing of the receiver.
            process::carried_receiver();
        }
        Lab::of_way(self, name)
    }

    /// A lab whose target holds core@1 and core@2, where nothing wants core@2 any more, and bulk@1 of so many bytes is yet to be sent.
    pub fn lab_with_bulk_to_send(self, name: &str, bytes: usize) -> Lab {
        let lab = self.lab(name);
        for version in ["1", "2"] {
            lab.package("core", version, |p| p.file("a", version));
        }
        lab.package("bulk", "1", |p| p.noise("a", bytes));
        lab.release(&[("core", "1"), ("core", "2")]);
        lab.config("perth", "");
        lab.agent_once("perth").expect_success();
        lab.release(&[("core", "1"), ("bulk", "1")]);
        lab
    }

    /// The key `transport` of a config.
    pub(crate) fn transport(self) -> &'static str {
        self.transport
    }

    /// The key `receiver` of a config.
    pub(crate) fn receiver(self) -> &'static str {
        self.receiver
    }
}

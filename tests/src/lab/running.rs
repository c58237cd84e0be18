//! What runs in a lab, on the master's side and on the target.

use std::fs;

use super::Lab;
use crate::process::{self, Process};

impl Lab {
    /// What runs in the target's ssh sessions now, the sshd itself left out.
    pub fn remote_processes(&self) -> Vec<Process> {
        let mark = format!("BLAT_LAB_SSHD={}", self.dir.join("sshd").display());
        let all = process::processes_marked(&mark);
        all.into_iter().filter(|process| process.name != "sshd").collect()
    }

    /// What runs on the master's side now: masters, agents, and their ssh clients.
    pub fn local_processes(&self) -> Vec<Process> {
        let lab = self.dir.display().to_string();
        let remote = format!("{lab}/sshd/daemon");
        let all = process::processes_marked(&format!("BLAT_LAB={lab}"));
        // The ssh client overwrites its environment with its title, which names the control socket in the home tree.
        let titled = process::processes_marked(&format!("{lab}/home")).into_iter().filter(|p| p.name == "ssh");
        let mut found: Vec<Process> =
            all.into_iter().chain(titled).filter(|p| !p.command_line.contains(&remote)).collect();
        found.sort_by_key(|process| process.pid);
        found.dedup_by_key(|process| process.pid);
        found
    }

    /// What carries the links now: ssh clients; where the client is within the agent, the sshd's processes for its connections.
    pub fn link_processes(&self) -> Vec<u32> {
        if self.way.transport() == "openssh" {
            return self.local_processes().iter().filter(|p| p.name == "ssh").map(|p| p.pid).collect();
        }
        let leader = fs::read_to_string(self.dir.join("sshd/sshd.pid")).unwrap_or_default();
        let entries = fs::read_dir("/proc").expect("/proc is there").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        // The sshd has a child for each connection.
        let is_link = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(1)) == Some(leader.trim())
        };
        pids.filter(is_link).collect()
    }

    /// Waits until nothing runs on the master's side: no orphan is left.
    pub fn wait_until_nothing_runs(&self) {
        self.wait_for("the last process of the master's side to end", || {
            self.local_processes().is_empty().then_some(())
        });
    }
}

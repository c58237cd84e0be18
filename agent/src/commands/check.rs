//! `blat check --connect`: logs in and names all that is missing at once, on this side and on the target. It changes nothing; in a
//! bucket it tries its rights on objects of its own, which it takes away again.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use blat_config::{Home, Settings, Transport};
use blat_domain::archive::record::Owner;
use blat_domain::policy::release::KnownReleases;
use blat_domain::util::text::{printable, typed};
use blat_domain::util::units::show_size;
use blat_packing::attributes;

use crate::flow::rate_limit::RateLimiter;
use crate::releases::{CatalogLoader, Purpose};
use crate::sync::context;
use crate::targets::host::install::shell_word;
use crate::targets::host::remote::ProbeReport;
use crate::transport;
use crate::transport::answer::{CommandInput, ask};
use crate::transport::bounded::Bounds;

/// What the scripts cannot do without.
const TOOLS: [&str; 23] = [
    "awk",
    "cat",
    "chmod",
    "cp",
    "cut",
    "df",
    "find",
    "flock",
    "grep",
    "head",
    "id",
    "mkdir",
    "mv",
    "printf",
    "readlink",
    "rm",
    "sha256sum",
    "stat",
    "sync",
    "tar",
    "tr",
    "wc",
    "xargs",
];

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// What keeps the target from working, each with what to do about it.
    pub(crate) wrong: Vec<String>,
    /// What is well, or worth knowing.
    pub(crate) notes: Vec<String>,
}

/// Looks at everything that serving this target takes, and for what wanted packages have that does not go to it.
pub(crate) async fn run(home: &Home, settings: &Settings, owner: Owner) -> Findings {
    let mut findings = try_target(home, settings, owner).await;
    findings.notes.extend(lost_attributes(home, settings).await);
    findings
}

/// The extended attributes of wanted packages, in words; none where there is nothing to say.
async fn lost_attributes(home: &Home, settings: &Settings) -> Option<String> {
    let (catalog, manager) = (CatalogLoader::new(home, &settings.name), settings.release_manager.as_ref());
    let answer = match catalog.ask(manager, &settings.selection, &KnownReleases::default(), Purpose::Looking).await {
        Ok(answer) => answer,
        Err(why) => return Some(format!("extended attributes of packages were not looked for: {why}")),
    };
    let source = settings.source.clone();
    let looking = tokio::task::spawn_blocking(move || attributes::look(&source, answer.resolution.wanted.keys()));
    match looking.await {
        Ok(found) => (!found.is_empty()).then(|| found.to_string()),
        Err(why) => Some(format!("looking for extended attributes of packages failed: {why}")),
    }
}

async fn try_target(home: &Home, settings: &Settings, owner: Owner) -> Findings {
    let mut findings = Findings::default();
    here(settings, &mut findings);
    if let Transport::S3(s3) = &settings.transport {
        let limiter = Arc::new(RateLimiter::new(settings.bandwidth.clone()));
        let (well, wrong) = context::bucket(home, settings, s3, limiter, owner).probe().await;
        findings.notes.extend(well);
        findings.wrong.extend(wrong);
        return findings;
    }
    let transport = match context::visiting_transport(home, settings) {
        Ok(transport) => transport,
        Err(error) => return findings.and_wrong(format!("cannot make a scratch directory: {error}")),
    };
    match transport.is_restricted().await {
        Ok(false) => {}
        Ok(true) => return findings.and_receiver(&transport, settings).await,
        Err(error) => return findings.and_wrong(error.to_string()),
    }
    let mut lines = Vec::new();
    let each = |line: &str| {
        lines.push(line.to_owned());
        Ok(())
    };
    let asked = match transport.exec("exec /bin/sh").await {
        Ok(remote) => ask(remote, CommandInput::Bytes(probe(settings).into_bytes()), Bounds::FEW, each).await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(()) => lines.iter().for_each(|line| findings.add(line, settings)),
        Err(error) => return findings.and_wrong(error.to_string()),
    }
    findings.and_receiver(&transport, settings).await
}

/// What can be told without the target.
fn here(settings: &Settings, findings: &mut Findings) {
    let source = settings.source.display();
    if let Err(error) = std::fs::read_dir(&settings.source) {
        findings.wrong.push(format!("the source {source} cannot be read: {error}"));
    }
    let Some(ssh) = settings.transport.ssh() else { return };
    let identity = ssh.identity.display();
    match std::fs::metadata(&ssh.identity) {
        Ok(found) if found.permissions().mode() & 0o077 != 0 => {
            findings.wrong.push(format!(
                "others may read the identity {identity}: chmod 600 {}",
                typed(&ssh.identity.to_string_lossy())
            ));
        }
        Ok(_) => {}
        Err(error) => findings
            .wrong
            .push(format!("the identity {identity} cannot be used: {error}; `blat enrol {}` makes one", settings.name)),
    }
    let known_hosts = ssh.known_hosts.display();
    if let Err(error) = std::fs::read(&ssh.known_hosts) {
        let name = &settings.name;
        findings
            .wrong
            .push(format!("the known hosts {known_hosts} cannot be read: {error}; `blat enrol {name}` stores one"));
    }
}

impl Findings {
    /// What serves the archive, and what the agent will install for that.
    async fn and_receiver(mut self, transport: &transport::Transport, settings: &Settings) -> Self {
        let (outdated, bin) = match context::probe(settings).look(transport).await {
            Ok(ProbeReport { outdated, receiver }) => {
                match receiver {
                    Ok(note) => self.notes.push(note),
                    Err(wrong) => self.wrong.push(wrong),
                }
                (outdated, &settings.bin)
            }
            Err(error) => return self.and_wrong(format!("the scripts cannot be looked at: {error}")),
        };
        match outdated {
            None => {}
            Some(names) if names.is_empty() => self.notes.push(format!("scripts are current in {bin}")),
            Some(names) => {
                self.notes.push(format!("scripts to be installed in {bin} by the agent: {}", names.join(" ")));
            }
        }
        self
    }

    fn and_wrong(mut self, text: String) -> Self {
        self.wrong.push(text);
        self
    }

    /// One line of the probe's answer.
    fn add(&mut self, line: &str, settings: &Settings) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (archive, bin, rest) = (&settings.archive, &settings.bin, printable(rest));
        let place = || match settings.transport {
            Transport::Openssh(_) | Transport::Libssh2(_) | Transport::S3(_) => "on the target",
            Transport::Local => "on this machine",
        };
        match word {
            "tool" => self.wrong.push(format!("the tool {rest} is missing {}", place())),
            "compression" => self.notes.push("neither zstd nor gzip is there, so packages travel uncompressed".into()),
            "archive" => self.wrong.push(format!("the archive {archive} {rest}")),
            "bin" => self.wrong.push(format!("the scripts' directory {bin} {rest}")),
            "free" => self.add_free(&rest, settings),
            "crontab" => self.notes.push("there is no crontab command, so `blat enrol --cron` cannot work".into()),
            _ => self.wrong.push(format!("the probe says something unknown: {}", printable(line))),
        }
    }

    fn add_free(&mut self, blocks: &str, settings: &Settings) {
        let Ok(blocks) = blocks.parse::<u64>() else {
            self.wrong.push(format!("the free space cannot be found out: df says \"{blocks}\""));
            return;
        };
        let (free, reserve) = (blocks.saturating_mul(1024), settings.disk_reserve);
        let archive = &settings.archive;
        if free <= reserve {
            let (free, reserve) = (show_size(free), show_size(reserve));
            self.wrong.push(format!("the disk of {archive} has {free} free, and disk_reserve keeps {reserve} of it"));
        } else {
            self.notes.push(format!("{} free", show_size(free)));
        }
    }
}

/// Asks for each thing and goes on, whatever is missing.
fn probe(settings: &Settings) -> String {
    let mut script = String::from(
        "PATH=${PATH:+$PATH:}/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin\nLC_ALL=C\nexport PATH LC_ALL\n",
    );
    script.push_str(
        "n=0\nsay() { echo \"$*\"; n=$((n+1)); }\nhas() { command -v \"$1\" >/dev/null 2>&1; }\necho '# blat 1'\n",
    );
    let _ = writeln!(script, "for tool in {}; do has $tool || say tool $tool; done", TOOLS.join(" "));
    script.push_str("has zstd || has gzip || say compression none\nhas crontab || say crontab none\n");
    let _ = write!(
        script,
        r##"archive={archive} bin={bin}
if [ ! -e "$archive" ]; then say archive 'does not exist, and Blat never makes one'
elif [ ! -d "$archive" ]; then say archive 'is no directory'
elif ! {{ [ -r "$archive" ] && [ -w "$archive" ] && [ -x "$archive" ]; }}; then say archive "is not for $(id -un) to read and write"
else
    house="$archive/.dpkg_archive"
    [ ! -e "$house" ] || {{ [ -w "$house" ] && [ -x "$house" ]; }} || say archive "holds a .dpkg_archive that $(id -un) may not write to"
    say free "$(df -Pk "$archive" 2>&1 | awk 'END {{ print $4 }}')"
fi
up=$bin
while [ ! -e "$up" ]; do
    case $up in */*) up=${{up%/*}} ;; *) up=. ;; esac
    [ -n "$up" ] || up=/
done
if [ ! -d "$up" ]; then say bin 'cannot be made: a part of its path is no directory'
elif ! {{ [ -w "$up" ] && [ -x "$up" ]; }}; then say bin "is not for $(id -un) to write to"
fi
echo "# end $n"
"##,
        archive = shell_word(&settings.archive),
        bin = shell_word(&settings.bin),
    );
    script
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn settings(archive: &str) -> Settings {
        let home = tempfile::tempdir().expect("a scratch directory");
        std::fs::create_dir(home.path().join("config")).expect("a folder");
        let config = format!("transport: local\nsource: /source\nbin: {archive}-bin\narchive: {archive}\n");
        std::fs::write(home.path().join("config/perth.conf"), config).expect("a config");
        let home = Home::locate(Some(home.path())).expect("a home tree");
        blat_config::load_target(&home, &"perth".parse().expect("a name")).expect("valid settings")
    }

    /// What the probe finds on a system with just these tools.
    fn found(archive: &str, tools: &[&str]) -> Findings {
        let folder = tempfile::tempdir().expect("a scratch directory");
        for tool in tools {
            std::fs::write(folder.path().join(tool), "#!/bin/sh\n").expect("a tool");
            let executable = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(folder.path().join(tool), executable).expect("a mode");
        }
        let settings = settings(archive);
        let script = probe(&settings);
        let (_, rest) = script.split_once('\n').expect("lines");
        let script = format!("PATH={}\n{rest}", folder.path().display());
        let output = Command::new("/bin/sh").args(["-c", &script]).output().expect("a shell");
        let text = String::from_utf8(output.stdout).expect("text");
        let mut findings = Findings::default();
        text.lines().filter(|line| !line.starts_with('#')).for_each(|line| findings.add(line, &settings));
        assert!(text.ends_with(&format!("# end {}\n", text.lines().count() - 2)), "{text}");
        findings
    }

    #[test]
    fn each_missing_tool_is_named_and_so_is_what_else_is_wrong() {
        let all_but: Vec<&str> = TOOLS.into_iter().filter(|tool| !["flock", "awk"].contains(tool)).collect();
        let found = found("/nowhere/archive", &all_but);
        assert_eq!(
            found.wrong[..2],
            ["the tool awk is missing on this machine", "the tool flock is missing on this machine"]
        );
        assert_eq!(found.wrong[2], "the archive /nowhere/archive does not exist, and Blat never makes one");
        assert_eq!(found.notes.len(), 2, "neither compression nor cron: {found:?}");
    }

    #[test]
    fn a_disk_without_space_above_the_reserve_is_told_with_both_numbers() {
        let (mut findings, settings) = (Findings::default(), settings("/archive"));
        findings.add("free 1024", &settings);
        assert!(findings.wrong[0].contains("1.0 MiB free") && findings.wrong[0].contains("512.0 MiB"), "{findings:?}");
        findings.add("free nonsense\u{1b}", &settings);
        assert!(
            findings.wrong[1].contains("cannot be found out") && !findings.wrong[1].contains('\u{1b}'),
            "{findings:?}"
        );
    }
}

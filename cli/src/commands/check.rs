//! `blat check`: everything that is wrong with the configuration, at once and with its place; on request also with the targets.

use std::io::{self, Write};
use std::process::Stdio;

use blat_config::{
    Complaint, Complaints, Home, ReleaseManager, Settings, TargetFile, conflicts, home_id, load_master, load_target,
};

use blat_domain::package::name::TargetName;
use blat_domain::util::text::printable;

use crate::args::CheckArgs;
use crate::commands::{targets, unusable};
use crate::failure::{Exit, Failure, Outcome};
use crate::picture::counted;
use crate::sibling;
use crate::style::{Style, Tone};

/// What came out of all the files.
#[derive(Debug, Default)]
struct Findings {
    /// Files without fault, as they are shown.
    valid: Vec<String>,
    /// Complaints about files, each once: the master's file is read again for every target.
    complaints: Vec<Complaint>,
    /// Complaints about how files are named, and about what they are together.
    others: Vec<String>,
    /// Complaints about logs.
    logs: Vec<String>,
    /// What is valid and still leaves a way to strangers.
    warnings: Vec<String>,
    settings: Vec<Settings>,
}

/// Checks one target's config or all.
pub(crate) fn run(home: impl FnOnce() -> Result<Home, Failure>, args: &CheckArgs) -> Outcome {
    let home = home()?;
    let findings = with_logs(
        &home,
        match &args.target {
            Some(target) => {
                targets::known(&home, target)?;
                look(&home, &[TargetFile::Named(target.clone())])
            }
            None => look(&home, &home.target_files().map_err(|error| unusable(&error))?),
        },
    );
    let told = tell(&findings);
    if !args.connect {
        return told;
    }
    // Targets whose configs are valid are tried, whatever is wrong with others.
    let targets = findings.settings.iter().map(|settings| &settings.name);
    let well = targets.map(|target| try_connecting(&home, target)).collect::<Result<Vec<bool>, Failure>>()?;
    let exit = told?;
    if well.contains(&false) { Err(Failure::told(Exit::FAILED)) } else { Ok(exit) }
}

/// Whether the target can be served; what is missing was said.
fn try_connecting(home: &Home, target: &TargetName) -> Result<bool, Failure> {
    let status = sibling::agent(home, target)?.arg("--check").stdin(Stdio::null()).status();
    let cannot = |error: io::Error| Failure::failed(format!("cannot run blat-agent to check {target}: {error}"));
    Ok(status.map_err(cannot)?.success())
}

fn look(home: &Home, files: &[TargetFile]) -> Findings {
    let mut findings = Findings::default();
    match load_master(home) {
        Ok(_) if home.master_config().exists() => findings.valid.push("config/blat.yaml".to_owned()),
        // It is optional.
        Ok(_) => {}
        Err(complaints) => findings.note(&complaints),
    }
    for file in files {
        match file {
            TargetFile::Misnamed(why) => findings.others.push(why.clone()),
            TargetFile::Named(target) => match load_target(home, target) {
                Ok(settings) => {
                    let file = format!("config/{target}.conf");
                    let exposure = settings.release_manager.as_ref().and_then(ReleaseManager::exposure);
                    findings.warnings.extend(exposure.map(|exposure| format!("{file}: {exposure}")));
                    findings.valid.push(file);
                    findings.settings.push(settings);
                }
                Err(complaints) => findings.note(&complaints),
            },
        }
    }
    findings.others.extend(home_id::check(home).err().map(|error| error.to_string()));
    findings.others.extend(conflicts(&findings.settings));
    findings
}

/// The same with what keeps the master and the agents from writing their logs.
fn with_logs(home: &Home, mut findings: Findings) -> Findings {
    let agents = findings.settings.iter().map(|settings| home.agent_log(&settings.name));
    for log in std::iter::once(home.master_log()).chain(agents) {
        if let Err(error) = blat_logging::expect_writable(&log) {
            let log = printable(&log.to_string_lossy());
            findings.logs.push(format!("{error}; give {log} and its directory back to the home's owner"));
        }
    }
    findings
}

impl Findings {
    fn note(&mut self, complaints: &Complaints) {
        for complaint in complaints.list() {
            if !self.complaints.contains(complaint) {
                self.complaints.push(complaint.clone());
            }
        }
    }
}

/// Valid files go to standard output, complaints and warnings to standard error, so that cron mails just these. A warning changes no exit code.
fn tell(findings: &Findings) -> Outcome {
    let style = Style::of_stdout();
    let mut out = io::stdout().lock();
    for file in &findings.valid {
        writeln!(out, "{}  {file}", style.paint(Tone::Good, "ok"))?;
    }
    out.flush()?;
    let warnings: String = findings.warnings.iter().map(|warning| format!("warning: {warning}\n\n")).collect();
    // Where standard error is gone, the exit code still tells what is wrong.
    let _ = write!(io::stderr(), "{warnings}");
    let count = findings.complaints.len() + findings.others.len();
    if count + findings.logs.len() == 0 {
        if findings.settings.is_empty() {
            writeln!(out, "no targets yet: each is a file config/TARGET.conf")?;
        }
        return Ok(Exit::DONE);
    }
    out.flush()?;
    let mut text: String = findings.complaints.iter().map(|complaint| format!("{complaint}\n\n")).collect();
    text.extend(findings.others.iter().chain(&findings.logs).map(|other| format!("error: {other}\n\n")));
    // Where standard error is gone, the exit code still tells.
    let _ = write!(io::stderr(), "{text}");
    if count == 0 {
        let logs = counted(findings.logs.len() as u64, "log");
        return Err(Failure::failed(format!("the configuration is valid, but {logs} cannot be written")));
    }
    Err(Failure::new(Exit::CONFIG, format!("the configuration is not valid: {}", counted(count as u64, "complaint"))))
}

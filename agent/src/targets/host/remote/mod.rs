//! What serves the archive at the far end: `blat-receiver` where the config and the target let it, our scripts elsewhere.
//!
//! Everything is asked in one run of `/bin/sh` a connection. A receiver that is missing or another is sent, tried and then used; whatever keeps
//! it from running is a reason that `blat status` shows, and no failure, unless the config names a build. The scripts are installed in
//! any case: cron runs some of them.

mod builds;
mod remote_state;
mod send;
#[cfg(test)]
mod tests;

use blat_config::Receiver;
use blat_domain::protocol::status;
use blat_domain::util::limits::named;
use blat_packing::tar::encoder::Compression;
use tokio::sync::Mutex;

use self::builds::Build;
pub(crate) use self::builds::long_version;
pub(crate) use self::remote_state::RemoteState;
use super::install::{EXECUTABLE, Installed, Probe, Ran, ensure_installed, run_probe, shell_word};
use crate::model::error::TargetError;
use crate::transport::Transport;

/// What our own receiver says of its version.
const VERSION: &str = concat!("blat-receiver ", env!("CARGO_PKG_VERSION"));

/// What was found out over one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FarEnd {
    /// What serves the archive.
    pub(crate) serves: Serves,
    /// How packages may be packed for the scripts.
    pub(crate) compression: Compression,
}

/// What serves an archive at the far end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Serves {
    /// The receiver.
    Receiver {
        /// What starts it, a line for a shell.
        command: String,
        /// Whether our key can run nothing else: then there are no scripts for us, and whatever command is started, it is the receiver.
        restricted: bool,
        /// Why scripts beside it are not as they should be; none where all are, or nobody may look.
        scripts: Option<String>,
    },
    /// The scripts.
    Scripts {
        /// Why not the receiver; none where the config wants it so.
        why: Option<String>,
    },
}

impl Serves {
    /// The same for the status.
    pub(crate) fn shown(&self) -> status::FarEnd {
        match self {
            Self::Receiver { restricted, scripts, .. } => {
                status::FarEnd::Receiver { restricted: *restricted, scripts: scripts.clone() }
            }
            Self::Scripts { why } => status::FarEnd::Scripts { why: why.clone() },
        }
    }
}

/// What [`RemoteProbe::look`] found.
#[derive(Debug)]
pub(crate) struct ProbeReport {
    /// The scripts that are missing there or not ours; none where our key can run no scripts anyway.
    pub(crate) outdated: Option<Vec<&'static str>>,
    /// What serves or would serve; an error where nothing could.
    pub(crate) receiver: Result<String, String>,
}

/// Finds out what serves a target.
#[derive(Debug)]
pub(crate) struct RemoteProbe {
    setting: Receiver,
    archive: String,
    bin: String,
    /// The connection over which installing came to nothing, and why: over that one it is not tried again.
    in_vain: Mutex<Option<(u64, String)>>,
}

/// A build to be used, or why there is none.
type Choice = Result<Build, String>;

impl RemoteProbe {
    /// For a target whose archive and scripts are at these paths there.
    pub(crate) fn new(setting: Receiver, archive: String, bin: String) -> Self {
        Self { setting, archive, bin, in_vain: Mutex::new(None) }
    }

    /// What serves the target over the present connection; installs what is missing there or not ours.
    ///
    /// # Errors
    /// Where the target cannot be reached, others may exchange what is there, the scripts are to serve and cannot be installed, the build that the
    /// config names cannot be used, or the host allows too few sessions for what serves.
    pub(crate) async fn far_end(&self, transport: &Transport) -> Result<FarEnd, TargetError> {
        let generation = transport.generation().await?;
        if transport.is_restricted().await? {
            return self.restricted();
        }
        let builds = self.builds();
        let known: Vec<&str> = builds.iter().flatten().map(|build| build.digest.as_str()).collect();
        let Installed { probe, scripts } = ensure_installed(transport, &self.bin, &known).await?;
        let compression = probe.compression(transport);
        let serves = match self.chosen(builds, &probe) {
            None => Serves::Scripts { why: None },
            Some(choice) => match self.ensure_receiver(transport, generation, &probe, choice).await? {
                Ok(()) => Serves::Receiver { command: self.command(), restricted: false, scripts: idle(&scripts) },
                Err(why) => Serves::Scripts { why: Some(self.without(why)?) },
            },
        };
        match &serves {
            Serves::Scripts { .. } => {
                scripts?;
                transport.check_sessions().await?;
            }
            Serves::Receiver { .. } => {}
        }
        Ok(FarEnd { serves, compression })
    }

    /// What would serve the target; changes nothing there.
    ///
    /// # Errors
    /// Where the target cannot be reached or does not answer.
    pub(crate) async fn look(&self, transport: &Transport) -> Result<ProbeReport, TargetError> {
        if transport.is_restricted().await? {
            let text = format!("the key can run nothing but {EXECUTABLE}, which answers");
            let receiver = self.restricted().map(|_| text).map_err(|error| error.to_string());
            return Ok(ProbeReport { outdated: None, receiver });
        }
        let builds = self.builds();
        let known: Vec<&str> = builds.iter().flatten().map(|build| build.digest.as_str()).collect();
        let probe = run_probe(transport, &self.bin, &known).await?;
        let bin = &self.bin;
        if let Some(what) = &probe.is_unsafe {
            return Ok(ProbeReport { outdated: None, receiver: Err(what.why(bin)) });
        }
        let receiver = match self.chosen(builds, &probe) {
            None => Ok("served by scripts, as the config wants it".to_owned()),
            Some(choice) => match choice.map(|build| held(&probe, &build, bin)) {
                Ok(Some(Ok(()))) => Ok(format!("{EXECUTABLE} is current in {bin}")),
                Ok(None) => Ok(format!("{EXECUTABLE} to be installed in {bin} by the agent")),
                Ok(Some(Err(why))) | Err(why) => self.without(why).map(|why| format!("served by scripts: {why}")),
            },
        };
        let outdated = probe.outdated().into_iter().map(|(name, _)| name).collect();
        Ok(ProbeReport { outdated: Some(outdated), receiver: receiver.map_err(|error| error.to_string()) })
    }

    /// The builds that may be used; an error that is fit for printing where the one of the config cannot be read.
    fn builds(&self) -> Vec<Choice> {
        match &self.setting {
            Receiver::Never => Vec::new(),
            Receiver::Auto => builds::carried().into_iter().map(Ok).collect(),
            Receiver::Build(path) => vec![Build::read(path, "")],
        }
    }

    /// The build for this target; none where the config wants scripts.
    fn chosen(&self, builds: Vec<Choice>, probe: &Probe) -> Option<Choice> {
        let carried: Vec<&str> = builds.iter().flatten().map(|build| build.machine).collect();
        let system = &probe.system;
        let why = match carried[..] {
            [] => format!("this agent carries no builds of {EXECUTABLE}"),
            _ => format!("no build of {EXECUTABLE} for {system} is carried, only for {}", carried.join(", ")),
        };
        let fits = |choice: &Choice| choice.as_ref().is_ok_and(|build| build.is_for(system));
        match self.setting {
            Receiver::Never => None,
            Receiver::Auto => Some(builds.into_iter().find(fits).unwrap_or(Err(why))),
            Receiver::Build(_) => builds.into_iter().next(),
        }
    }

    /// Makes sure that the chosen build is there and runs. The inner error says why not.
    async fn ensure_receiver(
        &self,
        transport: &Transport,
        generation: u64,
        probe: &Probe,
        choice: Choice,
    ) -> Result<Result<(), String>, TargetError> {
        let build = match choice {
            Ok(build) => build,
            Err(why) => return Ok(Err(why)),
        };
        if let Some(verdict) = held(probe, &build, &self.bin) {
            return Ok(verdict);
        }
        let mut in_vain = self.in_vain.lock().await;
        if let Some((_, why)) = in_vain.as_ref().filter(|(when, _)| *when == generation) {
            return Ok(Err(why.clone()));
        }
        tracing::info!(bin = self.bin, bytes = build.bytes.len(), "installing {EXECUTABLE}");
        let verdict = send::send(transport, &self.bin, build).await?;
        if let Err(why) = &verdict {
            *in_vain = Some((generation, why.clone()));
        }
        Ok(verdict)
    }

    /// What it means that no receiver serves: for `auto` just that, and why.
    ///
    /// # Errors
    /// Where the config names a build.
    fn without(&self, why: String) -> Result<String, TargetError> {
        match &self.setting {
            Receiver::Auto | Receiver::Never => Ok(why),
            Receiver::Build(path) => Err(TargetError::Operator(format!(
                "{why}; the config says receiver: {}, and only receiver: auto may do without",
                path.display()
            ))),
        }
    }

    /// Whether scripts may serve in the receiver's place.
    fn may_do_without(&self) -> bool {
        match self.setting {
            Receiver::Auto | Receiver::Never => true,
            Receiver::Build(_) => false,
        }
    }

    /// Where our key can run nothing but the receiver.
    fn restricted(&self) -> Result<FarEnd, TargetError> {
        match self.setting {
            Receiver::Auto | Receiver::Build(_) => {
                let serves = Serves::Receiver { command: self.command(), restricted: true, scripts: None };
                Ok(FarEnd { serves, compression: Compression::None })
            }
            Receiver::Never => Err(TargetError::Operator(format!(
                "the key can run nothing but {EXECUTABLE}, and the config says receiver: never"
            ))),
        }
    }

    fn command(&self) -> String {
        format!("exec {}", start(&self.bin, &self.archive))
    }
}

/// What starts the receiver of `bin` for `archive`, for a shell.
pub(crate) fn start(bin: &str, archive: &str) -> String {
    format!("{} --archive {}", shell_word(&format!("{bin}/{EXECUTABLE}")), shell_word(archive))
}

/// What it means beside a receiver that scripts are not as they should be. It is said once a look.
fn idle(scripts: &Result<(), TargetError>) -> Option<String> {
    let error = scripts.as_ref().err()?;
    let text =
        format!("{error}; {EXECUTABLE} sends packages all the same, and cron runs these scripts as they are there");
    tracing::warn!("{text}");
    Some(text)
}

/// Whether the receiver that is there is this build; the inner error says why it does not run.
fn held(probe: &Probe, build: &Build, bin: &str) -> Option<Result<(), String>> {
    let held = probe.receiver.as_ref().filter(|held| held.digest == build.digest)?;
    held.ran.as_ref().map(|ran| why_not(ran, bin).map_or(Ok(()), Err))
}

/// Why a receiver cannot be used that said this when it was tried; none where it can.
fn why_not(ran: &Ran, bin: &str) -> Option<String> {
    match ran {
        Ran { status: 0, said } if said == VERSION => None,
        Ran { status: 0, said } => Some(format!("{EXECUTABLE} says {said:?} of its version, not {VERSION:?}")),
        Ran { status, said } => Some(named(format!("{EXECUTABLE} cannot run in {bin}: {said} (status {status})"))),
    }
}

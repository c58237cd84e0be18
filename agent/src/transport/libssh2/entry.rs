//! The ssh process itself: this executable, started by the agent for one connection. It speaks to libssh2, and to nobody but the agent and the host.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use blat_config::SshSettings;
use rustix::process::Signal;

use super::connect::{self, greet};
use super::driver::Driver;
use super::messages::{SshEvent, SshOrder, Wait, encoded, receive, send};
use super::process::{MOST_MEMORY, SHOW_KEY, SPEAK};
use crate::model::error::TargetError;
use crate::transport::tied;

/// Speaks ssh, where this process was started for that; else gives nothing.
pub(crate) fn speak_instead(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    if arguments.into_iter().nth(1).as_deref() != Some(OsStr::new(SPEAK)) {
        return None;
    }
    Some(match speak() {
        Ok(()) => ExitCode::SUCCESS,
        // The agent reads it.
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    })
}

fn speak() -> io::Result<()> {
    tied::confine(MOST_MEMORY)?;
    // These have a meaning for agents, and somebody may send them to all processes of the service.
    for signal in [Signal::HUP, Signal::USR1] {
        signal_hook::flag::register(signal.as_raw(), Arc::new(AtomicBool::new(false)))?;
    }
    let agent = io::stdin().as_fd().try_clone_to_owned()?;
    match receive(&agent, Wait::Yes)? {
        Some((SshOrder::Login { to, is_single }, _)) => match connect::login(&to.into(), is_single) {
            Ok(login) => {
                report(&agent, &SshEvent::LoggedIn(login.listener))?;
                Driver::new(login, agent).run()
            }
            Err(error) => report(&agent, &SshEvent::Failed(error)),
        },
        Some((SshOrder::ShowKey { to }, _)) => report(&agent, &shown_key(&to.into())),
        Some((order @ (SshOrder::Run { .. } | SshOrder::Forget { .. }), _)) => {
            Err(io::Error::other(format!("there is no connection for {order:?}")))
        }
        // Nobody needs it any more.
        None => Ok(()),
    }
}

fn shown_key(settings: &SshSettings) -> SshEvent {
    match greet(settings, SHOW_KEY) {
        Ok(greeted) => SshEvent::Shown { verdict: greeted.verdict, fingerprint: greeted.key.fingerprint() },
        Err(error) => SshEvent::Failed(error),
    }
}

/// Reports something to the agent, which takes it as soon as it has time.
///
/// # Errors
/// The agent is gone.
pub(super) fn report(agent: &OwnedFd, event: &SshEvent) -> io::Result<()> {
    let text = encoded(event).or_else(|why| {
        encoded(&SshEvent::Failed(TargetError::Link(format!("what the host says cannot be reported: {why}"))))
    });
    send(agent, &text.map_err(io::Error::other)?, &[])
}

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
use super::messages::{Event, Order, Wait, encoded, receive, send};
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
        Some((Order::Login { to, is_single }, _)) => match connect::login(&to.into(), is_single) {
            Ok(line) => {
                report(&agent, &Event::LoggedIn(line.listener))?;
                Driver::new(line, agent).run()
            }
            Err(error) => report(&agent, &Event::Failed(error)),
        },
        Some((Order::ShowKey { to }, _)) => report(&agent, &shown_key(&to.into())),
        Some((order @ (Order::Run { .. } | Order::Forget { .. }), _)) => {
            Err(io::Error::other(format!("there is no connection for {order:?}")))
        }
        // Nobody needs it any more.
        None => Ok(()),
    }
}

fn shown_key(settings: &SshSettings) -> Event {
    match greet(settings, SHOW_KEY) {
        Ok(greeted) => Event::Shown { verdict: greeted.verdict, fingerprint: greeted.key.fingerprint() },
        Err(error) => Event::Failed(error),
    }
}

/// Reports something to the agent, which takes it as soon as it has time.
///
/// # Errors
/// The agent is gone.
pub(super) fn report(agent: &OwnedFd, event: &Event) -> io::Result<()> {
    let text = encoded(event).or_else(|why| {
        encoded(&Event::Failed(TargetError::Link(format!("what the host says cannot be reported: {why}"))))
    });
    send(agent, &text.map_err(io::Error::other)?, &[])
}

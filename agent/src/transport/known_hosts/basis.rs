//! What a connection stands on: what known_hosts said of its hosts when they were logged in to.
//!
//! Nobody asks the ssh client again whom it trusts once it is logged in. So the file is looked at for as long as the connection stands: when the keys
//! by which its hosts were trusted are not in it any more, or are revoked, somebody with a stolen key may be at the other end.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, PoisonError};

use blat_config::SshSettings;

use super::{KnownHost, TargetError};

/// What known_hosts says of the hosts of one connection.
#[derive(Debug)]
pub(in super::super) struct Basis {
    settings: SshSettings,
    looked: Mutex<Looked>,
}

/// What was found at the last look.
#[derive(Debug)]
struct Looked {
    stamp: Option<KnownHostsStamp>,
    /// That of each host on the way, in their order, and at last the host.
    known: Vec<KnownHost>,
}

/// What tells a state of a file from any other without reading it: device, inode, length, and when bytes and inode changed last.
type KnownHostsStamp = (u64, u64, u64, (i64, i64), (i64, i64));

impl Basis {
    /// As the settings' file is now. To be read before the login, so that a change after that is noticed.
    ///
    /// # Errors
    /// [`TargetError::Operator`] where the file cannot be read, or says of keys what only some clients understand.
    pub(in super::super) fn read(settings: &SshSettings) -> Result<Self, TargetError> {
        // One that cannot be looked at is read at the next look.
        let stamp = stamp(settings).ok().flatten();
        let looked = Mutex::new(Looked { stamp, known: KnownHost::read_all(settings)? });
        Ok(Self { settings: settings.clone(), looked })
    }

    /// Whether the file still trusts all that it trusted of these hosts, and revokes none of it. One that cannot be read just now says nothing new;
    /// one that no login may use any more trusts nobody.
    pub(in super::super) fn holds(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(now) = stamp(&self.settings) else { return true };
        if now.is_some() && now == looked.stamp {
            return true;
        }
        let text = match super::text(&self.settings.known_hosts) {
            Ok(text) => text,
            Err(error) => return error.kind() != io::ErrorKind::FileTooLarge,
        };
        let ways = self.settings.ways_to_jumps().chain([self.settings.clone()]);
        let Ok(known) = ways.map(|way| KnownHost::parse(&text, &way.host, way.port)).collect::<Result<Vec<_>, _>>()
        else {
            return false;
        };
        let holds = looked.known.iter().zip(&known).all(|(before, now)| before.holds_in(now));
        if holds {
            *looked = Looked { stamp: now, known };
        }
        holds
    }
}

/// None where there is no such file.
fn stamp(settings: &SshSettings) -> io::Result<Option<KnownHostsStamp>> {
    match std::fs::metadata(&settings.known_hosts) {
        Ok(file) => {
            let (bytes, inode) = ((file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()));
            Ok(Some((file.dev(), file.ino(), file.len(), bytes, inode)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

//! Whether a target is alone: what is packed for one is worth keeping only where another of the same master could use it.

use blat_config::{Home, Receiver, Settings, Transport};

/// Whether the home tree configures another target that may be sent the same packages packed in the same way. Reads no more configs than it
/// takes to find one.
pub(crate) fn is_there(home: &Home, settings: &Settings) -> bool {
    if !may_share(settings) {
        return false;
    }
    let names = match home.target_names() {
        Ok(names) => names,
        Err(error) => {
            tracing::debug!(%error, "nobody knows of other targets, so nothing is packed for them");
            return false;
        }
    };
    let others = names.into_iter().filter(|name| *name != settings.name);
    // Who cannot be served now may be later, and looks for himself then.
    let mut others = others.filter_map(|name| blat_config::load_target(home, &name).ok());
    others.any(|other| other.source == settings.source && may_share(&other))
}

/// Whether a receiver may serve it over a link: scripts take other streams, and what stays on this machine is not packed.
fn may_share(settings: &Settings) -> bool {
    let is_remote = match settings.transport {
        Transport::Openssh(_) | Transport::Libssh2(_) => true,
        Transport::Local | Transport::S3(_) => false,
    };
    let may_be_a_receiver = match settings.receiver {
        Receiver::Auto | Receiver::Build(_) => true,
        Receiver::Never => false,
    };
    is_remote && may_be_a_receiver
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_peer_is_another_target_with_the_same_source_that_a_receiver_may_serve_over_a_link() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        fs::create_dir(scratch.path().join("config")).expect("config/");
        let home = Home::locate(Some(scratch.path())).expect("a home tree");
        let write = |target: &str, text: &str| {
            fs::write(scratch.path().join(format!("config/{target}.conf")), text).expect("an own folder");
        };
        let alone = |target: &str| {
            let settings = blat_config::load_target(&home, &target.parse().expect("a name")).expect("a valid config");
            !is_there(&home, &settings)
        };
        write("perth", "host: perth\nsource: /srv/archive\n");
        assert!(alone("perth"));
        write("oslo", "host: oslo\nsource: /srv/other\n");
        write("here", "transport: local\nsource: /srv/archive\n");
        write("old", "host: old\nsource: /srv/archive\nreceiver: never\n");
        write("bad", "host: [\n");
        assert!(alone("perth") && alone("here") && alone("old"));
        write("rome", "host: rome\nsource: /srv/archive\n");
        assert!(!alone("perth") && !alone("rome") && alone("here") && alone("old") && alone("oslo"));
    }
}

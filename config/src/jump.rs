//! `proxy_jump`: the hosts that a connection to a target goes through, as `USER@HOST` or `USER@HOST:PORT`.

use crate::keys::{Keys, Wrong};
use crate::settings::Jump;
use crate::values;

/// The most hosts on one way.
const MOST: usize = 8;
const EXPECTED: &str = "USER@HOST or USER@HOST:PORT, such as blat@bastion.example.com or \"blat@[2001:db8::1]:2222\"";

/// The jump hosts in their order. `is_within` says whether the way is an ssh client within the agent, which makes no way through them.
pub(crate) fn read(keys: &mut Keys<'_>, is_within: bool) -> Vec<Jump> {
    let jumps = keys.list("proxy_jump", jump);
    if jumps.is_empty() {
        return jumps;
    }
    let Some(found) = keys.find("proxy_jump") else { return jumps };
    if is_within {
        let message =
            "proxy_jump needs the system's ssh client: transport libssh2 reaches its host directly or not at all";
        keys.complain_about(found, message.to_owned(), Some("transport: openssh, or proxy_jump: [] for this target"));
    }
    if jumps.len() > MOST {
        let message = format!("these are {} jump hosts, and {MOST} is the most", jumps.len());
        keys.complain_about(found, message, None);
    }
    jumps
}

fn jump(text: &str) -> Result<Jump, Wrong> {
    // A directory service's user may have that sign too; no host has.
    let (user, place) = text.rsplit_once('@').ok_or_else(|| Wrong::expected(EXPECTED)(text))?;
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if values::ipv6(place).is_none() && !place.ends_with(']') => (host, Some(port)),
        Some(_) | None => (place, None),
    };
    // Without brackets nobody knows where such an address ends.
    let is_bare = port.is_some() && host.contains(':') && !host.starts_with('[');
    let is_odd = is_bare || user.contains("://");
    let (Ok(user), Ok(host), false) = (values::user(user), values::host(host), is_odd) else {
        return Err(Wrong::expected(EXPECTED)(text));
    };
    Ok(Jump { user, host, port: port.map_or(Ok(22), values::port)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jump_hosts_are_a_user_a_host_and_maybe_a_port() {
        for (text, user, host, port) in [
            ("blat@bastion", "blat", "bastion", 22),
            ("blat@bastion.example.com:2222", "blat", "bastion.example.com", 2222),
            ("blat@10.1", "blat", "10.0.0.1", 22),
            ("blat@[2001:DB8::1]:2222", "blat", "2001:db8::1", 2222),
            ("blat@[fe80::1%eth0]", "blat", "fe80::1%eth0", 22),
            ("blat@2001:db8::1", "blat", "2001:db8::1", 22),
            ("a@example.com@bastion:1", "a@example.com", "bastion", 1),
            ("EXAMPLE\\a b@bastion", "EXAMPLE\\a b", "bastion", 22),
        ] {
            let read = jump(text).map_err(|wrong| wrong.message);
            assert_eq!(read, Ok(Jump { user: user.into(), host: host.into(), port }), "{text}");
        }
        for bad in [
            "",
            "bastion",
            "@bastion",
            "blat@",
            "blat@bastion:",
            "blat@bastion:0",
            "blat@bastion:65536",
            "blat@bastion:22:23",
            "blat@2001:db8::1:99999",
            "blat@[::1",
            "blat@[bastion]:22",
            "-oProxyCommand=x@bastion",
            "blat@-oProxyCommand=x",
            "blat@$(id)",
            "blat@a,b",
            "ssh://blat@bastion",
            "none",
        ] {
            assert!(jump(bad).is_err(), "{bad:?}");
        }
    }
}

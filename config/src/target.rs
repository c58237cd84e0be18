//! `config/TARGET.conf`, backed by `defaults:` in `config/blat.yaml`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blat_domain::package::name::{PackageId, TargetName};
use blat_domain::policy::guard::MaxDelete;
use blat_domain::policy::release::{NameFilter, ReleaseKey, Selection};
use blat_domain::policy::retention::{Aging, Deleter};
use blat_domain::util::units;

use crate::aws;
use crate::bandwidth;
use crate::complaint::{Complaint, Complaints};
use crate::document::{Document, Key, Node, Value};
use crate::home::{self, Home};
use crate::jump;
use crate::keys::{Found, Keys, Wrong};
use crate::master;
use crate::overlap;
use crate::release_manager;
use crate::s3;
use crate::settings::{Kind, LogSettings, Receiver, Settings, SshSettings, Transport};
use crate::trust::{self, Distrust};
use crate::values;

/// The keys of a target that the master has not.
const KEYS: [&str; 28] = [
    "type",
    "host",
    "port",
    "user",
    "proxy_jump",
    "identity",
    "known_hosts",
    "transport",
    "archive",
    "bin",
    "source",
    "tags",
    "tag_poll",
    "sync",
    "writable",
    "releases",
    "projects",
    "include",
    "exclude",
    "pkg",
    "release_manager",
    "aging",
    "max_delete",
    "disk_reserve",
    "max_size",
    "bandwidth",
    "receiver",
    "s3",
];
/// What `receiver` may be.
const RECEIVERS: &str = "auto, never, or the path of a build, such as receivers/blat-receiver";
/// The shortest interval that makes sense for anything that is repeated.
const SHORTEST: Duration = Duration::from_secs(1);

/// Reads one target's settings from the home tree.
///
/// # Errors
/// All that is wrong with its file and with the defaults it rests on.
pub fn load_target(home: &Home, name: &TargetName) -> Result<Settings, Complaints> {
    let mut complaints = Vec::new();
    let path = home.target_config(name);
    let defaults = Document::load(home, &home.master_config(), &mut complaints);
    let lacks_defaults = defaults.is_none() && !complaints.is_empty();
    let own = Document::load(home, &path, &mut complaints);
    if let Some(why) = home::reserved(name) {
        complaints.push(Complaint::whole(home.shown(&path).to_owned(), format!("{why}; rename the file")));
    }
    let Some(own) = own else {
        if complaints.is_empty() {
            let shown = home.shown(&path).to_owned();
            let message = format!("there is no config for {name}: {} is missing", shown.display());
            complaints.push(Complaint::whole(shown, message));
        }
        return Err(none_missing(Complaints::of(complaints)));
    };
    if own.says_nothing() {
        // Half of a file that is being written looks like that: the defaults alone never make a target.
        let message = "the file is empty: it has no key, or comments alone".to_owned();
        complaints.push(Complaint::whole(home.shown(&path).to_owned(), message));
    }
    let mut keys = Keys::new();
    keys.complaints = complaints;
    if lacks_defaults {
        keys.cut();
    }
    keys.add(Found { document: &own, node: &own.root });
    if let Some(found) = defaults.as_ref().and_then(master::defaults) {
        keys.add(found);
    }
    let settings = read(home, name, &mut keys);
    keys.refuse_unknown(&[], masters);
    match keys.complaints() {
        None => Ok(settings),
        Some(complaints) => Err(complaints),
    }
}

/// Where a key belongs that the master has not.
pub(crate) fn targets(key: &str) -> Option<&'static str> {
    KEYS.contains(&key).then_some("below defaults:, or to one target's own file")
}

/// Where a key belongs that a target has not.
fn masters(key: &str) -> Option<&'static str> {
    matches!(key, "defaults" | "http").then_some("in blat.yaml, not to a target")
}

/// Whoever gives up has complained.
fn none_missing(complaints: Option<Complaints>) -> Complaints {
    complaints.expect("settings are refused only with a complaint")
}

/// The settings. Where something is missing or not valid that was complained about, and an empty text or a default stands in its place, so that
/// all else can be checked; never another way to the target.
fn read(home: &Home, name: &TargetName, keys: &mut Keys<'_>) -> Settings {
    let path = values::local_path(home);
    let kind = keys.value("type", Kind::DpkgArchive, |text| match text {
        "dpkg_archive" => Ok(Kind::DpkgArchive),
        "s3Sync" => Ok(Kind::S3Sync),
        other => Err(Wrong::expected("dpkg_archive or s3Sync")(other)),
    });
    let transport = match kind {
        Kind::DpkgArchive => {
            s3::refuse(keys);
            transport(home, name, keys)
        }
        Kind::S3Sync => Transport::S3(s3::read(keys)),
    };
    let source = keys.required("source", "the master's package archive, here or in defaults: of blat.yaml", &path);
    let settings = Settings {
        name: name.clone(),
        path: home.target_config(name),
        archive: keys.value("archive", "dpkg_archive".into(), values::remote_directory),
        bin: keys.value("bin", "bin".into(), values::remote_directory),
        tags: keys.value("tags", home.tags_dir(name), &path),
        tag_poll: keys.value("tag_poll", Duration::from_secs(5), values::duration_from(SHORTEST)),
        sync: keys.value("sync", Duration::from_secs(4 * 3600), values::duration_from(SHORTEST)),
        writable: keys.value("writable", Duration::from_secs(86_400), values::duration),
        selection: selection(kind, keys),
        release_manager: release_manager::read(home, keys),
        aging: aging(keys),
        max_delete: keys.value("max_delete", MaxDelete::default(), max_delete),
        disk_reserve: keys.value("disk_reserve", 512 << 20, values::size),
        max_size: keys.value("max_size", 0, values::size),
        bandwidth: bandwidth::read(keys),
        receiver: keys.value("receiver", Receiver::Auto, |text| match text {
            "auto" => Ok(Receiver::Auto),
            "never" => Ok(Receiver::Never),
            // A single word is rather one of ours mistyped.
            build if build.contains('/') => path(build).map(Receiver::Build),
            other => Err(Wrong::expected(RECEIVERS)(other)),
        }),
        verbose: verbose(keys, 1),
        log: log(keys, LogSettings::default()),
        transport,
        source: source.unwrap_or_default(),
    };
    contradictions(&settings, keys);
    overlap::check(&settings, home, keys);
    distrust(&settings, home, keys);
    settings
}

/// Complains about files that decide for us and that others may write: keys, passwords and programs, and the folder of a local target's scripts.
fn distrust(settings: &Settings, home: &Home, keys: &mut Keys<'_>) {
    let mut files: Vec<(&'static str, &Path)> = Vec::new();
    if let Some(ssh) = settings.transport.ssh() {
        files.extend([("identity", &*ssh.identity), ("known_hosts", &*ssh.known_hosts)]);
    }
    if let Receiver::Build(build) = &settings.receiver {
        files.push(("receiver", build));
    }
    if settings.kind() == Kind::S3Sync {
        keys.complaints
            .extend(aws::distrusted().into_iter().map(|(path, why)| Complaint::whole(path, why.to_string())));
    }
    let mut distrusted: Vec<(&str, PathBuf, String)> = Vec::new();
    for (key, path) in files {
        distrusted.extend(trust::open_to_others(home.root(), path).map(|(path, why)| (key, path, why)));
    }
    let manager = settings.release_manager.iter().flat_map(|manager| manager.distrusted(home.root()));
    distrusted.extend(manager.map(|(path, why)| ("release_manager", path, why)));
    if let Some(bin) = settings.local_bin()
        && let Err(why @ Distrust::OpenToOthers { .. }) = trust::check_place(home.root(), &bin)
    {
        distrusted.push(("bin", bin, why.to_string()));
    }
    for (key, path, why) in distrusted {
        match keys.find(key) {
            Some(found) => keys.complain_about(found, why, None),
            None => keys.complaints.push(Complaint::whole(home.shown(&path).to_owned(), why)),
        }
    }
}

/// What is right in each key and wrong between them.
fn contradictions(settings: &Settings, keys: &mut Keys<'_>) {
    release_manager::contradictions(settings.release_manager.as_ref(), keys);
    if settings.kind() == Kind::S3Sync {
        return s3::contradictions(settings.aging, keys);
    }
    if Path::new(&settings.bin).starts_with(&settings.archive)
        && let Some(found) = keys.find("bin").or_else(|| keys.find("archive"))
    {
        let message = "bin lies inside the archive, where it would be taken for a package".to_owned();
        keys.complain_about(found, message, Some("two directories, neither of them inside the other"));
    }
    let archive = Path::new(&settings.archive);
    let overlaps = archive.starts_with(&settings.source) || settings.source.starts_with(archive);
    if settings.transport == Transport::Local
        && !settings.source.as_os_str().is_empty()
        && archive.is_absolute()
        && overlaps
        && let Some(found) = keys.find("archive")
    {
        let message = "the archive and the source lie inside each other".to_owned();
        keys.complain_about(found, message, Some("two directories, neither of them inside the other"));
    }
}

fn transport(home: &Home, name: &TargetName, keys: &mut Keys<'_>) -> Transport {
    let path = values::ssh_path(home);
    let given = keys.has("transport");
    let named = keys.optional("transport", |text| match text {
        "openssh" => Ok(Way::Openssh),
        "libssh2" => Ok(Way::Libssh2),
        "local" => Ok(Way::Local),
        other => Err(Wrong::expected("openssh, libssh2 or local")(other)),
    });
    let ssh = SshSettings {
        target: name.clone(),
        host: host(keys, !given || matches!(named, Some(Way::Openssh | Way::Libssh2))).unwrap_or_default(),
        port: keys.value("port", 22, values::port),
        user: keys.value("user", "pkgadmin".into(), values::user),
        jumps: jump::read(keys, matches!(named, Some(Way::Libssh2))),
        identity: keys.value("identity", home.ssh_dir().join("id_ed25519"), &path),
        known_hosts: keys.value("known_hosts", home.ssh_dir().join("known_hosts"), &path),
        home: home.root().to_owned(),
    };
    match named {
        Some(Way::Local) => Transport::Local,
        Some(Way::Libssh2) => Transport::Libssh2(ssh),
        Some(Way::Openssh) | None => Transport::Openssh(ssh),
    }
}

/// The host to log in at; none where it is missing or not valid, which is complained about where it `is_needed` or given.
fn host(keys: &mut Keys<'_>, is_needed: bool) -> Option<String> {
    if is_needed && !keys.has("host") {
        keys.missing("host", "the target's host name, or transport: local");
    }
    let found = keys.find("host")?;
    // `host: [::1]` is a list to YAML, and means the address.
    if let Value::List(items) = &found.node.value
        && let [Node { value: Value::Text(text), .. }] = &items[..]
        && let Some(address) = values::ipv6(text)
    {
        return Some(address);
    }
    keys.scalar(found, values::host)
}

/// A transport by its name, before it is known where it leads.
#[derive(Clone, Copy)]
enum Way {
    Openssh,
    Libssh2,
    Local,
}

fn selection(kind: Kind, keys: &mut Keys<'_>) -> Selection {
    let releases = releases(keys);
    let projects = keys.list("projects", values::name);
    let include = keys.list("include", values::glob);
    let exclude = keys.list("exclude", values::glob);
    // Each glob was checked when it was read; all together they can still be too much.
    let filter = NameFilter::new(include, exclude).unwrap_or_else(|error| {
        if let Some(found) = keys.find("include").or_else(|| keys.find("exclude")) {
            keys.complain_about(found, format!("these globs cannot be used together: {error}"), None);
        }
        NameFilter::default()
    });
    Selection { releases, projects, filter, pinned: pinned(keys), only_s3sync: kind == Kind::S3Sync }
}

/// `releases`: each a text, which is an id or a name, or `{id: ID}` or `{name: NAME}` where it has to be one of the two.
fn releases(keys: &mut Keys<'_>) -> Vec<ReleaseKey> {
    let Some(found) = keys.find("releases") else { return Vec::new() };
    let Found { document, node } = found;
    let items = match &node.value {
        Value::List(items) => items.as_slice(),
        Value::Text(_) | Value::Empty | Value::Map(_) => std::slice::from_ref(node),
    };
    items.iter().filter_map(|item| release(keys, Found { document, node: item })).collect()
}

fn release<'d>(keys: &mut Keys<'d>, found: Found<'d>) -> Option<ReleaseKey> {
    let id = |text: &str| text.parse::<i64>().ok().filter(|id| id.to_string() == text);
    let Value::Map(_) = &found.node.value else {
        return keys.scalar(found, |text| match id(text) {
            Some(id) => Ok(ReleaseKey::Id(id)),
            None => values::name(text).map(ReleaseKey::Name),
        });
    };
    let mut inner = Keys::new();
    inner.add(found);
    let by_id = inner.optional("id", |text| {
        id(text).map(ReleaseKey::OnlyId).ok_or_else(|| Wrong::expected("a release's id, a whole number")(text))
    });
    let by_name = inner.optional("name", |text| values::name(text).map(ReleaseKey::Name));
    let is_one = inner.has("id") != inner.has("name");
    inner.refuse_unknown(&[], |_| None);
    keys.complaints.append(&mut inner.complaints);
    if !is_one {
        keys.complain_about(found, "this does not say which release".into(), Some("{id: ID} or {name: NAME}"));
    }
    by_id.or(by_name).filter(|_| is_one)
}

/// `pkg: {NAME: VERSION, NAME: [VERSION, …]}`.
fn pinned(keys: &mut Keys<'_>) -> BTreeSet<PackageId> {
    let mut pinned = BTreeSet::new();
    let Some(found) = keys.find("pkg") else { return pinned };
    let Value::Map(entries) = &found.node.value else {
        keys.complain_about(found, "pkg is not a mapping".into(), Some("{NAME: VERSION} or {NAME: [VERSION, …]}"));
        return pinned;
    };
    for (Key { text: name, place }, versions) in entries {
        if let Err(error) = name.parse::<blat_domain::package::name::PackageName>() {
            keys.complaints.push(found.document.complain(*place, error.to_string(), None));
            continue;
        }
        let versions = Found { node: versions, ..found };
        pinned.extend(keys.scalars(versions, |version| Ok(PackageId::new(name, version)?)));
    }
    pinned
}

/// `none`, `immediate`, or `{by: …, after: …}`.
fn aging(keys: &mut Keys<'_>) -> Aging {
    const EXPECTED: &str = "none, immediate, or {by: master, after: 30d} or {by: target, after: 30d}";
    let Some(found) = keys.find("aging") else { return Aging::None };
    let Value::Map(_) = found.node.value else {
        let word = keys.scalar(found, |text| match text {
            "none" => Ok(Aging::None),
            "immediate" => Ok(Aging::Immediate),
            other => Err(Wrong::expected(EXPECTED)(other)),
        });
        // What is not valid was complained about; this is not used then.
        return word.unwrap_or_default();
    };
    let mut inner = Keys::new();
    inner.add(found);
    let by = inner.required("by", "master or target", |text| match text {
        "master" => Ok(Deleter::Master),
        "target" => Ok(Deleter::Target),
        other => Err(Wrong::expected("master or target")(other)),
    });
    let wait = inner.required("after", "how long a package stays, such as 30d", |text| Ok(units::age(text)?));
    inner.refuse_unknown(&[], |_| None);
    keys.complaints.append(&mut inner.complaints);
    by.zip(wait).map_or(Aging::None, |(by, wait)| Aging::After { by, wait })
}

fn max_delete(text: &str) -> Result<MaxDelete, Wrong> {
    text.parse().map_err(|_| Wrong::expected("a number of packages, or a percentage up to 100%")(text))
}

pub(crate) fn verbose(keys: &mut Keys<'_>, default: u8) -> u8 {
    keys.value("verbose", default, |text| {
        let number = values::number(0, 3, "0 errors, 1 packages, 2 decisions or 3 everything")(text)?;
        u8::try_from(number).map_err(Wrong::from)
    })
}

pub(crate) fn log(keys: &mut Keys<'_>, default: LogSettings) -> LogSettings {
    let Some(found) = keys.find("log") else { return default };
    let mut inner = Keys::new();
    inner.add(found);
    let log = LogSettings {
        max: inner.value("max", default.max, |text| match values::size(text)? {
            0 => Err(Wrong::expected("a size above 0, such as 10m")(text)),
            size => Ok(size),
        }),
        keep: inner.value("keep", default.keep, values::number(0, 1000, "how many old logs are kept, 0 to 1000")),
    };
    inner.refuse_unknown(&[], |_| None);
    keys.complaints.append(&mut inner.complaints);
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_full_sample_is_known_to_belong_to_a_target() {
        let keys = crate::samples::FULL.lines().filter_map(|line| line.split_once(':')).map(|(key, _)| key);
        let keys: BTreeSet<&str> =
            keys.filter(|key| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')).collect();
        let shared = ["verbose", "log"];
        // A bucket's target has a sample of its own.
        let hosts = KEYS.into_iter().filter(|key| *key != "s3");
        let known: BTreeSet<&str> = hosts.chain(shared).collect();
        assert_eq!(keys, known);
    }
}

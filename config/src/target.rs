//! `config/TARGET.conf`, backed by `defaults:` in `config/blat.yaml`.

use std::collections::BTreeSet;
use std::time::Duration;

use blat_domain::name::{PackageId, TargetName};
use blat_domain::release::{NameFilter, ReleaseKey, Selection};
use blat_domain::text::printable;

use crate::complaint::{Complaint, Complaints};
use crate::document::{Document, Key, Value};
use crate::home::Home;
use crate::keys::{Found, Keys, Wrong};
use crate::master;
use crate::settings::{Kind, LogSettings, ReleaseManager, Settings, SshSettings, Transport};
use crate::values;

/// The contract's keys for targets that this version does not have.
const LATER: [&str; 3] = ["max_delete", "s3", "queries"];
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
    let own = Document::load(home, &path, &mut complaints);
    let Some(own) = own else {
        if complaints.is_empty() {
            let message = format!("there is no config for {name}: {} is missing", home.shown(&path).display());
            let path = home.shown(&path).to_owned();
            complaints.push(Complaint { path, place: None, message, expected: None, line_text: String::new() });
        }
        return Err(none_missing(Complaints::of(complaints)));
    };
    let mut keys = Keys::new();
    keys.complaints = complaints;
    keys.add(Found { document: &own, node: &own.root });
    if let Some(found) = defaults.as_ref().and_then(master::defaults) {
        keys.add(found);
    }
    let settings = read(home, name, &mut keys);
    keys.refuse_unknown(&LATER);
    match (settings, keys.complaints()) {
        (Some(settings), None) => Ok(settings),
        (_, complaints) => Err(none_missing(complaints)),
    }
}

/// Whoever gives up has complained.
fn none_missing(complaints: Option<Complaints>) -> Complaints {
    complaints.expect("settings are refused only with a complaint")
}

fn read(home: &Home, name: &TargetName, keys: &mut Keys<'_>) -> Option<Settings> {
    let path = values::local_path(home);
    let kind = keys.value("type", Kind::DpkgArchive, |text| match text {
        "dpkg_archive" => Ok(Kind::DpkgArchive),
        "s3Sync" => Err(Wrong::not_available("type s3Sync")),
        other => Err(Wrong::expected("dpkg_archive")(other)),
    });
    let transport = transport(home, keys);
    let source = keys.optional("source", &path);
    if source.is_none() {
        keys.missing("source", "the master's package archive, here or in defaults: of blat.yaml");
    }
    let settings = Settings {
        name: name.clone(),
        path: home.target_config(name),
        kind,
        archive: keys.value("archive", "dpkg_archive".into(), values::remote_directory),
        bin: keys.value("bin", "bin".into(), values::remote_directory),
        tags: keys.value("tags", home.tags_dir(name), &path),
        tag_poll: keys.value("tag_poll", Duration::from_secs(5), values::duration_from(SHORTEST)),
        sync: keys.value("sync", Duration::from_secs(4 * 3600), values::duration_from(SHORTEST)),
        writable: keys.value("writable", Duration::from_secs(86_400), values::duration),
        selection: selection(keys),
        release_manager: release_manager(home, keys),
        disk_reserve: keys.value("disk_reserve", 512 << 20, values::size),
        verbose: verbose(keys, 1),
        log: log(keys, LogSettings::default()),
        // What is missing was complained about; these are not used then.
        transport: transport.unwrap_or(Transport::Local),
        source: source.unwrap_or_default(),
    };
    only_todays_meaning(keys);
    if settings.selection.needs_catalog() && settings.release_manager.is_none() && keys.complaints.is_empty() {
        let found = keys.find("releases").or_else(|| keys.find("projects"));
        if let Some(found) = found {
            let message = "releases and projects need a release_manager to be looked up in".to_owned();
            keys.complain_about(found, message, Some("release_manager: {file: PATH} or {sqlite: PATH}"));
        }
    }
    Some(settings)
}

fn transport(home: &Home, keys: &mut Keys<'_>) -> Option<Transport> {
    let path = values::local_path(home);
    let is_local = keys.value("transport", false, |text| match text {
        "openssh" => Ok(false),
        "local" => Ok(true),
        "libssh2" => Err(Wrong::not_available("transport libssh2")),
        other => Err(Wrong::expected("openssh or local")(other)),
    });
    let complained = keys.complaints.len();
    let host = keys.optional("host", values::host);
    let ssh = SshSettings {
        host: host.clone().unwrap_or_default(),
        port: keys.value("port", 22, |text| {
            let number = values::number(1, 65_535, "a TCP port, 1 to 65535")(text)?;
            u16::try_from(number).map_err(|_| Wrong::expected("a TCP port, 1 to 65535")(text))
        }),
        user: keys.value("user", "pkgadmin".into(), values::user),
        identity: keys.value("identity", home.ssh_dir().join("id_ed25519"), &path),
        known_hosts: keys.value("known_hosts", home.ssh_dir().join("known_hosts"), &path),
    };
    match (is_local, host) {
        (true, _) => Some(Transport::Local),
        (false, Some(_)) => Some(Transport::Openssh(ssh)),
        (false, None) => {
            if keys.complaints.len() == complained {
                keys.missing("host", "the target's host name, or transport: local");
            }
            None
        }
    }
}

fn selection(keys: &mut Keys<'_>) -> Selection {
    let releases = keys.list("releases", |text| match text.parse::<i64>() {
        Ok(id) => Ok(ReleaseKey::Id(id)),
        Err(_) => values::text(text).map(ReleaseKey::Name),
    });
    let projects = keys.list("projects", values::text);
    let include = keys.list("include", values::glob);
    let exclude = keys.list("exclude", values::glob);
    // Each glob was checked when it was read; all together they can still be too much.
    let filter = NameFilter::new(include, exclude).unwrap_or_else(|error| {
        if let Some(found) = keys.find("include").or_else(|| keys.find("exclude")) {
            keys.complain_about(found, format!("these globs cannot be used together: {error}"), None);
        }
        NameFilter::default()
    });
    Selection { releases, projects, filter, pinned: pinned(keys) }
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
        if let Err(error) = name.parse::<blat_domain::name::PackageName>() {
            keys.complaints.push(found.document.complain(*place, error.to_string(), None));
            continue;
        }
        let versions = Found { node: versions, ..found };
        pinned.extend(keys.scalars(versions, |version| Ok(PackageId::new(name, version)?)));
    }
    pinned
}

fn release_manager(home: &Home, keys: &mut Keys<'_>) -> Option<ReleaseManager> {
    const EXPECTED: &str = "one of {sqlite: PATH} or {file: PATH}";
    let found = keys.find("release_manager")?;
    if !matches!(found.node.value, Value::Map(_)) {
        keys.complain_about(found, "release_manager is not a mapping".into(), Some(EXPECTED));
        return None;
    }
    let mut inner = Keys::new();
    inner.add(found);
    let path = values::local_path(home);
    let sqlite = inner.optional("sqlite", &path).map(|path| ReleaseManager::Sqlite { path });
    let file = inner.optional("file", &path).map(|path| ReleaseManager::File { path });
    inner.value("mode", (), |text| match text {
        "strict" => Ok(()),
        "fallback" => Err(Wrong::not_available("mode fallback")),
        other => Err(Wrong::expected("strict")(other)),
    });
    inner.refuse_unknown(&["postgres", "mysql", "command", "package_list", "queries"]);
    if inner.complaints.is_empty() && sqlite.is_some() == file.is_some() {
        let message =
            if sqlite.is_some() { "release_manager names two sources" } else { "release_manager names no source" };
        inner.complain_about(found, message.into(), Some(EXPECTED));
    }
    keys.complaints.append(&mut inner.complaints);
    sqlite.or(file)
}

/// Keys of the contract that have one meaning today: anything else must be refused, not ignored.
fn only_todays_meaning(keys: &mut Keys<'_>) {
    let zero = |what: &'static str| {
        move |text: &str| match values::size(text) {
            Ok(0) => Ok(()),
            Ok(_) => Err(Wrong::not_available(what)),
            Err(wrong) => Err(wrong),
        }
    };
    keys.value("max_size", (), zero("max_size other than 0"));
    for (key, only, what) in
        [("bandwidth", "0", "a bandwidth other than 0"), ("aging", "none", "aging other than none")]
    {
        let Some(found) = keys.find(key) else { continue };
        match &found.node.value {
            Value::Text(text) if text == only => {}
            Value::Text(text) if key == "aging" && text != "immediate" => {
                keys.complain_about(found, format!("\"{}\" is not valid here", printable(text)), Some("none"));
            }
            Value::Empty | Value::Text(_) | Value::List(_) | Value::Map(_) => {
                keys.complain_about(found, format!("{what} is not available yet"), None);
            }
        }
    }
    keys.value("receiver", (), |text| match text {
        "auto" | "never" => Ok(()),
        other => Err(Wrong::not_available(&format!("the receiver \"{}\"", printable(other)))),
    });
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
    inner.refuse_unknown(&[]);
    keys.complaints.append(&mut inner.complaints);
    log
}

/// Pairs of targets that would fill one and the same archive: each would undo what the other does.
pub fn conflicts(targets: &[Settings]) -> Vec<String> {
    let mut told = Vec::new();
    for (index, first) in targets.iter().enumerate() {
        for second in &targets[index + 1..] {
            if place(first) == place(second) {
                told.push(format!("{} and {} are the same archive, {}", first.name, second.name, first.archive));
            }
        }
    }
    told
}

/// What makes an archive this one: the way's end, and the path there without what does not change its meaning.
fn place(settings: &Settings) -> (Option<(&str, u16, &str)>, String) {
    let parts = settings.archive.split('/').filter(|part| !part.is_empty() && *part != ".");
    let root = if settings.archive.starts_with('/') { "/" } else { "" };
    let path = format!("{root}{}", parts.collect::<Vec<_>>().join("/"));
    match &settings.transport {
        Transport::Openssh(ssh) => (Some((&ssh.host, ssh.port, &ssh.user)), path),
        Transport::Local => (None, path),
    }
}

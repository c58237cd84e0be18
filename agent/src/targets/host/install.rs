//! Finding out what a target can do, and putting our scripts there when they are missing or of another digest.
//!
//! Both are one run of `/bin/sh` that reads a script of ours from its standard input: no quoting for whatever login shell the user has.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use blat_domain::util::text::hex;
use blat_domain::util::text::printable;
use blat_packing::tar::encoder::Compression;
use sha2::{Digest, Sha256};

use super::place::{self, Unsafe};
use crate::model::error::TargetError;
use crate::transport::Transport;
use crate::transport::answer::{CommandInput, ask};
use crate::transport::bounded::Bounds;

/// The scripts, as they were when this executable was built. The libraries are first: the others read them.
const SCRIPTS: [(&str, &str); 9] = [
    ("blat-lib.sh", include_str!("../../../../target-scripts/blat-lib.sh")),
    ("blat-aging.sh", include_str!("../../../../target-scripts/blat-aging.sh")),
    ("blat-removing.sh", include_str!("../../../../target-scripts/blat-removing.sh")),
    ("get_plist", include_str!("../../../../target-scripts/get_plist")),
    ("receive_file", include_str!("../../../../target-scripts/receive_file")),
    ("receive_package", include_str!("../../../../target-scripts/receive_package")),
    ("delete_package", include_str!("../../../../target-scripts/delete_package")),
    ("pkg_mon", include_str!("../../../../target-scripts/pkg_mon")),
    ("pkg_purge", include_str!("../../../../target-scripts/pkg_purge")),
];

/// The digest of each script.
static DIGESTS: LazyLock<[(&str, [u8; 32]); SCRIPTS.len()]> =
    LazyLock::new(|| SCRIPTS.map(|(name, text)| (name, Sha256::digest(text).into())));

/// What the libraries' names end in.
const LIBRARY: &str = ".sh";
/// What the receiver is called there, in the scripts' directory.
pub(crate) const EXECUTABLE: &str = "blat-receiver";
/// The longest script and the longest receiver that are looked into, in blocks of 512 bytes: 1 MiB and 64 MiB. Ours are shorter by far.
const LONGEST: [u32; 2] = [2048, 131_072];
/// Ends each script in the installation. None of them has such a line.
const DELIMITER: &str = "=====BLAT-END-OF-SCRIPT=====";

/// What a target answered to the probe.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    /// Why nothing there may be run; nothing else was looked at then.
    pub(crate) is_unsafe: Option<Unsafe>,
    digests: BTreeMap<String, String>,
    zstd: bool,
    gzip: bool,
    /// The system and the machine type, as `uname -s -m` says them; fit for printing.
    pub(crate) system: String,
    /// The `blat-receiver` that is there.
    pub(crate) receiver: Option<InstalledReceiver>,
}

/// A `blat-receiver` that is on a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InstalledReceiver {
    /// Its digest.
    pub(crate) digest: String,
    /// What came of running it with `--version`; only one of ours is run.
    pub(crate) ran: Option<Ran>,
}

/// What came of running an executable with `--version` there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    /// Its exit status.
    pub(crate) status: i32,
    /// The first line of what it said; fit for printing.
    pub(crate) said: String,
}

impl Ran {
    /// From the words `STATUS SAID…`.
    pub(crate) fn parse(words: &[&str]) -> Option<Self> {
        let (status, said) = words.split_first()?;
        Some(Self { status: status.parse().ok()?, said: printable(&said.join(" ")) })
    }
}

impl Probe {
    fn add_line(&mut self, line: &str) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["unsafe", ref words @ ..] => self.is_unsafe = Unsafe::parse(words),
            ["tool", "zstd"] => self.zstd = true,
            ["tool", "gzip"] => self.gzip = true,
            ["script", name, digest] => {
                self.digests.insert(name.to_owned(), digest.to_owned());
            }
            ["system", ref words @ ..] => self.system = printable(&words.join(" ")),
            ["receiver", digest, ref words @ ..] => {
                self.receiver = Some(InstalledReceiver { digest: digest.to_owned(), ran: Ran::parse(words) });
            }
            _ => tracing::debug!(line = printable(line), "the target's probe says something unknown"),
        }
    }

    /// The scripts that are missing there or not ours.
    pub(crate) fn outdated(&self) -> Vec<(&'static str, &'static str)> {
        let is_current =
            |digest: &[u8; 32], name: &str| self.digests.get(name).is_some_and(|said| *said == hex(digest));
        let both = SCRIPTS.into_iter().zip(DIGESTS.iter());
        both.filter(|((name, _), (_, digest))| !is_current(digest, name)).map(|(script, _)| script).collect()
    }

    /// How packages may be packed on this way.
    pub(crate) fn compression(&self, transport: &Transport) -> Compression {
        match (transport.is_remote(), self.zstd, self.gzip) {
            (false, ..) | (true, false, false) => Compression::None,
            (true, true, _) => Compression::Zstd,
            (true, false, true) => Compression::Gzip,
        }
    }
}

/// The scripts by name and digest, as a receiver is asked about them.
pub(crate) fn digests() -> &'static [(&'static str, [u8; 32])] {
    &*DIGESTS
}

/// What the look found, and which scripts could not be installed after it.
pub(crate) struct Installed {
    /// What is there.
    pub(crate) probe: Probe,
    /// Why some scripts are not as they should be: then scripts can not serve.
    pub(crate) scripts: Result<(), TargetError>,
}

/// Makes sure that the target's scripts are ours, and says what was found out. A `blat-receiver` there is tried if its digest is
/// one of `known`.
///
/// # Errors
/// Where the target cannot be reached, or others may exchange what is there.
pub(crate) async fn ensure_installed(
    transport: &Transport,
    bin: &str,
    known: &[&str],
) -> Result<Installed, TargetError> {
    let probe = run_probe(transport, bin, known).await?;
    refuse_unsafe(&probe, bin)?;
    let outdated = probe.outdated();
    if outdated.is_empty() {
        return Ok(Installed { probe, scripts: Ok(()) });
    }
    tracing::info!(scripts = names(&outdated), bin, "installing target scripts");
    let why = match run(transport, installation(bin, &outdated), Bounds::NONE, |_| {}).await {
        Ok(()) => None,
        Err(error @ (TargetError::Refused(_) | TargetError::Space(_))) => Some(error),
        Err(error @ (TargetError::Link(_) | TargetError::Operator(_))) => return Err(error),
    };
    // Others may have made the directory meanwhile.
    let probe = run_probe(transport, bin, known).await?;
    refuse_unsafe(&probe, bin)?;
    let scripts = match (&probe.outdated()[..], why) {
        ([], _) => Ok(()),
        (left, Some(TargetError::Space(why))) => Err(TargetError::Space(cannot_install(left, bin, &why))),
        (left, Some(why)) => Err(TargetError::Refused(cannot_install(left, bin, &why.to_string()))),
        (left, None) => Err(TargetError::Refused(format!(
            "the target scripts were installed in {bin}, yet these are not there unchanged: {}; look at that directory on the target",
            names(left)
        ))),
    };
    Ok(Installed { probe, scripts })
}

fn refuse_unsafe(probe: &Probe, bin: &str) -> Result<(), TargetError> {
    probe.is_unsafe.as_ref().map_or(Ok(()), |what| Err(TargetError::Operator(what.why(bin))))
}

fn cannot_install(left: &[(&str, &str)], bin: &str, why: &str) -> String {
    format!("cannot install the target scripts in {bin} ({}): {why}", names(left))
}

fn names(scripts: &[(&str, &str)]) -> String {
    scripts.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
}

/// Looks at what is there, and changes nothing. A `blat-receiver` is tried if its digest is one of `known`: none other is run.
pub(crate) async fn run_probe(transport: &Transport, bin: &str, known: &[&str]) -> Result<Probe, TargetError> {
    let mut script = format!(
        "PATH=${{PATH:-/usr/bin}}:/usr/local/bin:/usr/bin:/bin\nbin={}\nme=$(id -u) || exit 1\necho '# blat 1'\nn=0\n",
        shell_word(bin)
    );
    script.push_str(place::LOOK);
    script.push_str("[ -z \"$unsafe\" ] || { printf '%s\\n' \"unsafe $unsafe\" '# end 1'; exit 0; }\n");
    script.push_str(
        "for tool in zstd gzip; do\n  command -v $tool >/dev/null 2>&1 && { echo \"tool $tool\"; n=$((n+1)); }\ndone\n",
    );
    let names: Vec<&str> = SCRIPTS.iter().map(|(name, _)| *name).collect();
    let files: Vec<String> = names.iter().chain([&EXECUTABLE]).map(|name| format!("\"$bin\"/{name}")).collect();
    // What has lost its execute bit counts as missing: the shell's own test would say that of everything where nothing may be executed. So does
    // what others own or may write, since they can change it later, a link, and what is too long to be one of ours, before it is read.
    let _ = write!(
        script,
        "nl='\n'\nusable=$(find {} -prune -type f -perm -100 ! -perm -002 \\( ! -size +{} -o -name {EXECUTABLE} ! -size +{} \\) \
         \\( -user \"$me\" -o -user 0 -o -user 65534 \\) 2>/dev/null)\nis_usable() {{\n  [ -r \"$bin/$1\" ] || return 1\n  \
         case $usable$nl in *\"/$1$nl\"*) return 0 ;; *) return 1 ;; esac\n}}\n",
        files.join(" "),
        LONGEST[0],
        LONGEST[1],
    );
    let _ = write!(
        script,
        "for script in {}; do\n  is_usable $script || continue\n  sum=$(sha256sum <\"$bin/$script\") || exit 1\n  \
         echo \"script $script ${{sum%% *}}\"; n=$((n+1))\ndone\n",
        names.join(" "),
    );
    // A word that no digest is, where there are none: a pattern must not be missing.
    let known = if known.is_empty() { "none".to_owned() } else { known.join("|") };
    let _ = write!(
        script,
        "echo \"system $(uname -s -m)\"; n=$((n+1))\nreceiver=$bin/{EXECUTABLE}\nif is_usable {EXECUTABLE}; then\n  \
         sum=$(sha256sum <\"$receiver\") || exit 1\n  sum=${{sum%% *}} ran=\n  case $sum in {known})\n    \
         case $receiver in /*) ;; *) receiver=./$receiver ;; esac\n    \
         said=$(\"$receiver\" --version 2>&1 </dev/null); ran=\" $? $(printf '%s' \"$said\" | head -n 1 | cut -c 1-200)\" ;;\n  \
         esac\n  echo \"receiver $sum$ran\"; n=$((n+1))\nfi\necho \"# end $n\"\n",
    );
    let mut probe = Probe::default();
    run(transport, script, Bounds::FEW, |line| probe.add_line(line)).await?;
    Ok(probe)
}

/// Each script is written beside its place and renamed into it: one that runs is never changed under its reader. One that cannot be replaced keeps
/// no other from it, unless that would read it: nothing runs with another version's library. What is written beside goes in any case; what a
/// cut connection left goes a day later.
fn installation(bin: &str, scripts: &[(&str, &str)]) -> String {
    let leftovers: Vec<String> = SCRIPTS.iter().map(|(name, _)| format!("-name '.{name}.[0-9]*'")).collect();
    let mut script = format!(
        r#"set -C
umask 022
mkdir -p {bin} && cd {bin} || exit 1
find . ! -name . -prune -type f \( {leftovers} \) -mtime +0 -exec rm -f {{}} + 2>/dev/null
new= failed=
trap '[ -z "$new" ] || rm -f "$new"' EXIT
trap 'exit 1' HUP INT TERM
put() {{
    [ ! -d "$1" ] || {{ echo "$1 there is a directory; move it away" >&2; return 1; }}
    new=.$1.$$
    rm -f $new && cat >$new && chmod 755 $new && mv -f $new "$1" && return 0
    rm -f $new
    return 1
}}
"#,
        bin = shell_word(bin),
        leftovers = leftovers.join(" -o "),
    );
    for (name, text) in scripts {
        let failed = if name.ends_with(LIBRARY) { "exit 1" } else { "failed=1" };
        let _ = write!(script, "put {name} <<'{DELIMITER}' || {failed}\n{text}{DELIMITER}\n");
    }
    script.push_str("[ -z \"$failed\" ] || exit 1\necho '# blat 1'\necho '# end 0'\n");
    script
}

async fn run(
    transport: &Transport,
    script: String,
    bounds: Bounds,
    mut each: impl FnMut(&str),
) -> Result<(), TargetError> {
    let each = |line: &str| {
        each(line);
        Ok(())
    };
    ask(transport.exec("exec /bin/sh").await?, CommandInput::Bytes(script.into_bytes()), bounds, each).await
}

/// `text` as one word of a shell's command line.
pub(crate) fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

pub(crate) fn sha256(bytes: impl AsRef<[u8]>) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::local::Shell;

    #[test]
    fn no_script_can_end_its_own_installation() {
        for (name, text) in SCRIPTS {
            assert!(text.ends_with('\n') && text.lines().all(|line| line != DELIMITER), "{name}");
        }
    }

    #[tokio::test]
    async fn scripts_are_installed_when_missing_or_changed_and_left_alone_otherwise() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let bin = scratch.path().join("it's a bin");
        let bin_text = bin.to_str().expect("UTF-8");
        let local = Transport::Local(Shell::new());
        ensure_installed(&local, bin_text, &[]).await.expect("a first installation").scripts.expect("all");

        let lib = bin.join("get_plist");
        let before = std::fs::metadata(&lib).expect("installed").modified().expect("a time");
        ensure_installed(&local, bin_text, &[]).await.expect("nothing to install");
        assert_eq!(std::fs::metadata(&lib).expect("still there").modified().expect("a time"), before);

        std::fs::write(&lib, "tampered").expect("a changed script");
        ensure_installed(&local, bin_text, &[]).await.expect("a repair").scripts.expect("all");
        assert_eq!(std::fs::read_to_string(&lib).expect("repaired"), SCRIPTS[3].1);
        let left: Vec<_> = std::fs::read_dir(&bin).expect("bin").map(|e| e.expect("an entry").file_name()).collect();
        assert_eq!(left.len(), SCRIPTS.len(), "{left:?}");
    }

    #[tokio::test]
    async fn what_lost_its_execute_bit_or_cannot_be_read_is_renewed_and_a_directory_in_its_place_is_named() {
        use std::os::unix::fs::PermissionsExt as _;
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let bin = scratch.path().join("it's a bin");
        let bin_text = bin.to_str().expect("UTF-8");
        let local = Transport::Local(Shell::new());
        ensure_installed(&local, bin_text, &[]).await.expect("a first installation").scripts.expect("all");
        let mode = |name: &str| std::fs::metadata(bin.join(name)).expect("a script").permissions().mode() & 0o777;
        for (name, lost) in [("pkg_mon", 0o644), ("pkg_purge", 0), ("blat-lib.sh", 0o311)] {
            std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(lost)).expect("an own file");
        }
        ensure_installed(&local, bin_text, &[]).await.expect("a repair").scripts.expect("all");
        assert_eq!(["pkg_mon", "pkg_purge"].map(mode), [0o755; 2]);

        std::fs::remove_file(bin.join("pkg_mon")).and_then(|()| std::fs::create_dir(bin.join("pkg_mon"))).expect("own");
        let found = ensure_installed(&local, bin_text, &[]).await.expect("a look");
        let why = found.scripts.expect_err("a directory").to_string();
        assert!(why.contains("pkg_mon there is a directory; move it away"), "{why}");
        assert_eq!(std::fs::read_dir(bin.join("pkg_mon")).expect("it stays").count(), 0);
    }

    #[test]
    fn any_path_is_one_shell_word() {
        assert_eq!(shell_word("a b'c"), "'a b'\\''c'");
    }
}

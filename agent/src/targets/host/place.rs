//! Whether nobody else can exchange what Blat runs on a target: the scripts' directory, and each folder and link on the way to it, belong to the
//! account or to root, and not everybody may write them.
//!
//! The way is walked there part by part, by the script that looks for the scripts, before anything in the directory is read or run. Once all
//! of it is safe, only root and the account can change that. What a group may write passes: many systems give each account a group of its own, and
//! which other members a group has, no portable command says. The number 65534 passes too: file servers and user namespaces show it in the
//! place of owners whom they do not know.

use blat_domain::util::text::{printable, typed};

/// Looks at the directory in `$bin` as the user in `$me`; sets `unsafe` to what [`Unsafe::parse`] reads, and leaves it empty where all is well. What
/// is missing is made later, and looked at then.
pub(crate) const LOOK: &str = r#"unsafe= at= links=0 ahead=$bin
case $ahead in /*) ;; *) here=$(pwd -P) || exit 1; ahead=$here/$ahead ;; esac
judge() {
    end=${2-}
    set -f; set -- "$1" $(ls -ldn "$1"); set +f
    case ${4-} in "$me"|0|65534) ;; *) unsafe="uid ${4:-unknown} $me $1"; return 1 ;; esac
    case $2$end in l*) ;; ????????w[!tT]*|????????w*end) unsafe="mode $2 $1"; return 1 ;; esac
}
walk() {
    judge / || return 0
    while [ -n "$ahead" ]; do
        part=${ahead%%/*}
        case $ahead in */*) ahead=${ahead#*/} ;; *) ahead= ;; esac
        case $part in ''|.) continue ;; ..) at=${at%/*}; continue ;; esac
        if [ -h "$at/$part" ]; then
            # In a folder such as /tmp a free name is anybody's to give to a link of ours.
            judge "${at:-/}" end && judge "$at/$part" || return 0
            links=$((links+1))
            [ $links -le 40 ] || return 0
            to=$(readlink "$at/$part") || exit 1
            case $to in /*) at= ;; esac
            ahead=$to/$ahead
        elif [ -d "$at/$part" ]; then
            judge "$at/$part" || return 0
            at=$at/$part
        else
            return 0
        fi
    done
    # In a folder such as /tmp others exchange none of ours, and may have put theirs in its place before.
    judge "${at:-/}" end
}
walk
"#;

/// What is wrong with a part of the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unsafe {
    /// It belongs to somebody else.
    Foreign {
        /// Whom: a user's number there.
        owner: String,
        /// The number of the account.
        account: String,
        /// The folder or link.
        path: String,
    },
    /// Everybody may write it.
    Open {
        /// Its type and mode, as `ls` shows them.
        mode: String,
        /// The folder.
        path: String,
    },
}

impl Unsafe {
    /// From the words of a line of the target's.
    pub(crate) fn parse(words: &[&str]) -> Option<Self> {
        match words {
            ["uid", owner, account, path @ ..] => {
                Some(Self::Foreign { owner: printable(owner), account: printable(account), path: path.join(" ") })
            }
            ["mode", mode, path @ ..] => Some(Self::Open { mode: printable(mode), path: path.join(" ") }),
            _ => None,
        }
    }

    /// Why nothing is run in `bin`, and what to do.
    pub(crate) fn why(&self, bin: &str) -> String {
        let (what, remedy) = match self {
            Self::Foreign { owner, account, path } => (
                format!("{} belongs to user {owner}, neither root nor the account (user {account})", printable(path)),
                format!("chown -h {account} {}", typed(path)),
            ),
            Self::Open { mode, path } => {
                (format!("everybody may write {} (mode {mode})", printable(path)), format!("chmod o-w {}", typed(path)))
            }
        };
        format!(
            "nothing is run in {bin} on the target, since others may exchange what is there: {what}; `{remedy}`, or give bin another folder"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions, set_permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::targets::host::install::shell_word;

    /// What is wrong with the way to a folder, as this machine's shell finds it from within `here`.
    fn look(here: &Path, bin: &str) -> Option<Unsafe> {
        let script = format!("bin={}; me=$(id -u); {LOOK}echo \"$unsafe\"", shell_word(bin));
        let output = Command::new("/bin/sh").args(["-c", &script]).current_dir(here).output().expect("a shell");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let said = String::from_utf8(output.stdout).expect("text");
        Unsafe::parse(&said.trim_end().split(' ').collect::<Vec<_>>())
    }

    fn set(path: &Path, mode: u32) {
        set_permissions(path, Permissions::from_mode(mode)).expect("an own folder");
    }

    fn open(path: &Path) -> Option<Unsafe> {
        Some(Unsafe::Open { mode: "drwxrwxrwx".to_owned(), path: path.display().to_string() })
    }

    #[test]
    fn a_folder_on_the_way_that_everybody_may_write_is_named() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let (above, bin) = (scratch.path().join("a * b"), scratch.path().join("a * b/bin"));
        fs::create_dir_all(&bin).expect("a folder");
        let all = ["a * b/bin", "a * b/none/../bin/", bin.to_str().expect("UTF-8")];
        for folder in [&above, &bin] {
            for fine in [0o775, 0o755] {
                set(folder, fine);
                assert_eq!(all.map(|bin| look(scratch.path(), bin)), [const { None }; 3], "{fine:o}");
            }
            set(folder, 0o1777);
            assert_eq!(
                look(scratch.path(), all[0]).is_some(),
                *folder == bin,
                "others exchange none of ours on the way"
            );
            set(folder, 0o777);
            assert_eq!(look(scratch.path(), all[0]), open(folder));
            assert_eq!(look(scratch.path(), all[2]), open(folder));
            set(folder, 0o755);
        }
        set(&above, 0o777);
        assert_eq!(look(scratch.path(), "a * b/none/bin"), open(&above), "where it is to be made");
    }

    #[test]
    fn a_link_is_followed_and_all_of_its_way_counts() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let at = |name: &str| scratch.path().join(name);
        for folder in ["open/real", "home"] {
            fs::create_dir_all(at(folder)).expect("a folder");
        }
        symlink("../open/second", at("home/bin")).expect("a link");
        symlink(at("open/real"), at("open/second")).expect("a link");
        assert_eq!(look(scratch.path(), "home/bin"), None);
        set(&at("open"), 0o777);
        assert_eq!(look(scratch.path(), "home/bin"), open(&at("open")));
        symlink("loop", at("home/loop")).expect("a link");
        assert_eq!(look(scratch.path(), "home/loop/bin"), None, "nothing is there to be run");
    }

    #[test]
    fn what_is_wrong_comes_with_what_to_do() {
        let foreign = Unsafe::parse(&["uid", "1002", "1001", "/data/it's", "a", "bin"]).expect("a line");
        let why = foreign.why("bin");
        assert!(
            why.contains("/data/it's a bin belongs to user 1002, neither root nor the account (user 1001)"),
            "{why}"
        );
        assert!(why.contains(&format!("`chown -h 1001 {}`", typed("/data/it's a bin"))), "{why}");
        assert_eq!(Unsafe::parse(&[""]), None);
    }
}

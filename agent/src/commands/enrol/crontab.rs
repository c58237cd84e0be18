//! The two crontab lines on the target, between markers that name the archive: other lines, and other archives', stay.

use blat_config::Settings;
use blat_domain::util::text::printable;

use super::AWAIT_LOCK;
use crate::model::error::TargetError;
use crate::targets::host::install::shell_word;
use crate::transport::Transport;
use crate::transport::answer::{CommandInput, ask};
use crate::transport::bounded::Bounds;

/// What is run, and when.
const JOBS: [(&str, &str); 2] = [("pkg_mon", "0 3 * * *"), ("pkg_purge", "0 6 * * 1")];

/// Installs the lines, and says what was done, fit for printing.
pub(super) async fn install(transport: &Transport, settings: &Settings) -> Result<String, TargetError> {
    let script = script(&settings.archive, &settings.bin);
    let mut outcome = String::new();
    let each = |line: &str| {
        outcome = printable(line);
        Ok(())
    };
    ask(transport.exec("exec /bin/sh").await?, CommandInput::Bytes(script.into_bytes()), Bounds::FEW, each).await?;
    Ok(outcome)
}

/// The shell functions that read the present table.
const TABLE: &str = r##"# table: the table as crontab tells it. Only where crontab says that there is none it is empty; Debian's and Red Hat's cron, systemd's, busybox and
# bcron say so and fail, dcron succeeds. What cannot be read must not be replaced.
table() {
    listed=$(crontab -l 2>/dev/null) && { printf '%s\n' "$listed"; return 0; }
    why=$(crontab -l 2>&1) && why='it fails at times'
    case ${listed:+part}$why in
    part* | *"
"*) ;;
    *'no crontab for '* | *"can't open '"*"': No such file or directory" | *'Crontab does not exist'*) return 0 ;;
    esac
    echo "crontab -l failed: $why; nothing is changed; where there is no crontab, make an empty one with crontab -e, then enrol again" >&2
    return 1
}
# holds TEXT: whether the table is TEXT. Some crontab commands put lines of their own before it.
holds() {
    now=$(table) || return 1
    case $now in *"$1") return 0 ;; esac
    return 1
}
"##;

/// Cron starts in the home directory, but its lines name everything in full. A percent sign would end a command there.
fn script(archive: &str, bin: &str) -> String {
    let jobs: Vec<String> = JOBS
        .iter()
        .map(|(verb, when)| {
            format!(
                "printf '%s /bin/sh %s --archive %s\\n' '{when}' \"$(word \"$bin/{verb}\")\" \"$(word \"$archive\")\""
            )
        })
        .collect();
    format!(
        r##"set -u
PATH=${{PATH:-/usr/bin}}:/usr/local/bin:/usr/bin:/bin
die() {{ echo "$*" >&2; exit 1; }}
{AWAIT_LOCK}word() {{ printf '%s' "$1" | sed "s/'/'\\\\''/g; s/%/\\\\%/g; 1s/^/'/; \$s/\$/'/"; }}
command -v crontab >/dev/null 2>&1 || die 'there is no crontab command here; install cron'
unset CDPATH
cd || die 'cannot enter the home directory'
archive=$(cd {archive} && pwd) || exit 1
bin=$(cd {bin} && pwd) || exit 1
home=$PWD
umask 077
LC_ALL=C
export LC_ALL
# One at a time: whoever puts a table in place replaces all of it.
lock=$home/.blat-enrol.lock
{{ true >>"$lock"; }} 2>/dev/null || lock=$bin/.blat-enrol.lock
{{ true >>"$lock"; }} 2>/dev/null || die "cannot make $lock; look at its owner, its mode and the space on its disk"
if command -v flock >/dev/null 2>&1; then
    exec 9>>"$lock"
    await_lock 'the crontab'
fi
{TABLE}old=$(table) || exit 1
begin="# blat begin $archive" end="# blat end $archive"
new=$(
    [ -z "$old" ] || printf '%s\n' "$old" |
        begin=$begin end=$end awk '$0 == ENVIRON["begin"] {{ ours = 1 }} !ours {{ print }}
            $0 == ENVIRON["end"] {{ ours = 0 }} END {{ if (ours) exit 3 }}' || exit 1
    printf '%s\n' "$begin"
    {jobs}
    printf '%s\n' "$end"
) || die "the crontab has a line \"$begin\" without its \"$end\"; fix it by hand with crontab -e"
if [ "$new" = "$old" ]; then
    done='current already'
else
    # A crontab command may lose lines on a full disk and not say so, so the old ones are kept until the new ones can be read.
    kept=$lock.crontab.$$
    {{ printf '%s\n' "$old" >"$kept" && printf '%s\n' "$old" | cmp -s - "$kept"; }} 2>/dev/null ||
        {{ rm -f "$kept"; die "cannot keep the old crontab in $kept; make space on its disk; nothing is changed"; }}
    [ "$(table)" = "$old" ] || {{ rm -f "$kept"; die 'somebody else changed the crontab meanwhile; nothing is changed, so try again'; }}
    printf '%s\n' "$new" | crontab - && holds "$new" || {{
        if {{ holds "$old" || {{ crontab - <"$kept" && holds "$old"; }}; }} 2>/dev/null; then
            rm -f "$kept"
            die 'crontab did not take the new lines; the old ones are in force'
        fi
        die "crontab did not take the new lines, and lost old ones; all old ones are in $kept: put them back with crontab $kept"
    }}
    rm -f "$kept"
    done='pkg_mon daily at 3:00, pkg_purge on Mondays at 6:00'
fi
printf '# blat 1\n%s\n# end 1\n' "$done"
"##,
        archive = shell_word(archive),
        bin = shell_word(bin),
        jobs = jobs.join("\n    "),
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Output};

    use super::*;

    /// A crontab command that keeps its table in a file, as far as cron itself is concerned.
    const FAKE: &str = "#!/bin/sh\ncase $1 in\n-l) [ -f $TABLE ] || { echo 'no crontab for us' >&2; exit 1; }; cat $TABLE ;;\n\
                        -) cat >$TABLE.new && mv $TABLE.new $TABLE ;;\nesac\n";

    /// Enrols with this crontab command, under this shell.
    fn run_with(folder: &Path, crontab: &str, shell: &[&str]) -> Output {
        use std::os::unix::fs::PermissionsExt as _;
        let tools = folder.join("tools");
        std::fs::create_dir_all(&tools).expect("a folder");
        std::fs::create_dir_all(folder.join("it's 100% an archive")).expect("a folder");
        std::fs::create_dir_all(folder.join("bin")).expect("a folder");
        std::fs::write(tools.join("crontab"), crontab).expect("a script");
        std::fs::set_permissions(tools.join("crontab"), std::fs::Permissions::from_mode(0o755)).expect("a mode");
        let path = format!("{}:{}", tools.display(), std::env::var("PATH").expect("a path"));
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).args(["-c", &script("it's 100% an archive", "bin")]);
        command.env("PATH", path).env("HOME", folder).env("TABLE", folder.join("table")).output().expect("a shell")
    }

    fn run(folder: &Path) -> Output {
        run_with(folder, FAKE, &["/bin/sh"])
    }

    const SHELLS: [&[&str]; 3] = [&["dash"], &["busybox", "sh"], &["bash"]];

    fn shells() -> impl Iterator<Item = &'static [&'static str]> {
        let is_there = |name: &str| Command::new(name).args(["-c", ":"]).output().is_ok();
        SHELLS.into_iter().filter(move |shell| is_there(shell[0]))
    }

    #[test]
    fn only_a_table_that_is_not_there_is_an_empty_one() {
        let absent = [
            ("no crontab for us", 1),
            ("crontab: no crontab for us", 1),
            ("no crontab for us", 0),
            ("crontab: can't open 'us': No such file or directory", 1),
            ("bcrontab: Fatal: Crontab does not exist", 1),
        ];
        let unreadable = [
            ("crontab: can't open 'us': Too many open files", 1),
            ("crontab: can't open 'us': Input/output error", 1),
            ("crontab: can't open 'us': Permission denied", 1),
            ("/var/spool/cron/us: Input/output error", 1),
            ("You (us) are not allowed to use this program (crontab)", 1),
            ("crontab: can't open your crontab file.", 1),
            ("first\nno crontab for us", 1),
            ("", 1),
        ];
        let cases = absent.map(|case| (case, true)).into_iter().chain(unreadable.map(|case| (case, false)));
        for ((said, status), is_absent) in cases {
            for shell in shells() {
                let folder = tempfile::tempdir().expect("a scratch directory");
                let lists =
                    format!("[ ! -e $HOME/asked ] || exec cat $TABLE; printf '%s\\n' \"{said}\" >&2; exit {status}");
                let fake = FAKE
                    .replace("-)", "-) touch $HOME/asked;")
                    .replace("[ -f $TABLE ] ||", &format!("{{ {lists}; }} ||"));
                let table = folder.path().join("table");
                if !is_absent {
                    std::fs::write(&table, "1 2 * * * backup\n").expect("a table");
                }
                let outcome = run_with(folder.path(), &fake, shell);
                let after = std::fs::read_to_string(&table).expect("a table");
                let error = String::from_utf8_lossy(&outcome.stderr).into_owned();
                assert_eq!(outcome.status.success(), is_absent, "{said}: {outcome:?}");
                if is_absent {
                    assert!(after.starts_with("# blat begin") && error.is_empty(), "{said}: {after} {error}");
                } else {
                    assert_eq!(after, "1 2 * * * backup\n", "{said}");
                    assert!(error.contains("crontab -l failed") && error.contains("nothing is changed"), "{error}");
                }
            }
        }
    }

    #[test]
    fn a_listing_that_breaks_off_is_not_the_table() {
        for shell in shells() {
            let folder = tempfile::tempdir().expect("a scratch directory");
            let table = folder.path().join("table");
            std::fs::write(&table, "1 2 * * * no crontab for you\n3 4 * * * x\n").expect("a table");
            let fake = FAKE.replace("cat $TABLE ;;\n-)", "head -n 1 $TABLE; exit 1 ;;\n-)");
            let outcome = run_with(folder.path(), &fake, shell);
            assert!(!outcome.status.success(), "{outcome:?}");
            let after = std::fs::read_to_string(&table).expect("a table");
            assert_eq!(after, "1 2 * * * no crontab for you\n3 4 * * * x\n");
        }
    }

    #[test]
    fn a_crontab_command_that_loses_lines_gets_the_old_ones_again() {
        const OLD: &str = "1 2 * * * backup\n3 4 * * * x\n";
        let leftovers = |folder: &Path| {
            let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
            entries.filter(|path| path.to_string_lossy().contains(".crontab.")).collect::<Vec<_>>()
        };
        for shell in shells() {
            let folder = tempfile::tempdir().expect("a scratch directory");
            let table = folder.path().join("table");
            let read = || std::fs::read_to_string(&table).expect("a table");
            // As on a full disk: what fits is kept, and nothing is said.
            let once =
                FAKE.replace("-) ", "-) [ -e $HOME/once ] || { touch $HOME/once; head -c 20 >$TABLE; exit 0; }; ");
            let always = FAKE.replace("-) ", "-) head -c 20 >$TABLE; exit 0; ");
            std::fs::write(&table, OLD).expect("a table");
            let outcome = run_with(folder.path(), &once, shell);
            assert!(String::from_utf8_lossy(&outcome.stderr).contains("the old ones are in force"), "{outcome:?}");
            assert!(!outcome.status.success() && leftovers(folder.path()).is_empty(), "{outcome:?}");
            assert_eq!(read(), OLD);
            let outcome = run_with(folder.path(), &always, shell);
            let kept = leftovers(folder.path()).pop().expect("the old lines");
            assert!(String::from_utf8_lossy(&outcome.stderr).contains(&kept.display().to_string()), "{outcome:?}");
            assert_eq!(std::fs::read_to_string(kept).expect("the old lines"), OLD);
        }
    }

    #[test]
    fn two_enrolments_at_once_lose_no_line() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        std::fs::write(folder.path().join("table"), "1 2 * * * backup\n").expect("a table");
        run(folder.path());
        let path = format!("{}:{}", folder.path().join("tools").display(), std::env::var("PATH").expect("a path"));
        let archives: Vec<String> = (0..5).map(|number| format!("archive{number}")).collect();
        let start = |archive: &String| {
            std::fs::create_dir(folder.path().join(archive)).expect("a folder");
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &script(archive, "bin")]).env("PATH", &path);
            command.env("HOME", folder.path()).env("TABLE", folder.path().join("table")).spawn().expect("a shell")
        };
        let running: Vec<_> = archives.iter().map(start).collect();
        for mut child in running {
            assert!(child.wait().expect("a shell").success());
        }
        let table = std::fs::read_to_string(folder.path().join("table")).expect("a table");
        assert_eq!(table.lines().count(), 1 + 4 * 6, "{table}");
    }

    #[test]
    fn the_lines_come_once_and_other_lines_stay() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let table = folder.path().join("table");
        let read = || std::fs::read_to_string(&table).expect("a table");
        let home = folder.path().display();
        let ours = format!(
            "# blat begin {home}/it's 100% an archive\n\
             0 3 * * * /bin/sh '{home}/bin/pkg_mon' --archive '{home}/it'\\''s 100\\% an archive'\n\
             0 6 * * 1 /bin/sh '{home}/bin/pkg_purge' --archive '{home}/it'\\''s 100\\% an archive'\n\
             # blat end {home}/it's 100% an archive\n"
        );
        let first = run(folder.path());
        assert!(first.status.success(), "{first:?}");
        assert_eq!(read(), ours);

        let others =
            format!("# mine\n5 4 * * * echo '\\%'\n{ours}# blat begin /other\n1 1 * * * x\n# blat end /other\n");
        std::fs::write(&table, &others).expect("a table");
        assert!(run(folder.path()).status.success());
        let after = read();
        let kept = others.replace(&ours, "");
        assert_eq!(after, format!("{kept}{ours}"), "other lines stay, and other archives'");
        let again = run(folder.path());
        assert!(String::from_utf8_lossy(&again.stdout).contains("current already"), "{again:?}");
        assert_eq!(read(), after);
    }

    #[test]
    fn a_torn_table_is_left_to_a_person() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let torn = format!("# blat begin {}/it's 100% an archive\nx\n", folder.path().display());
        std::fs::write(folder.path().join("table"), &torn).expect("a table");
        let outcome = run(folder.path());
        assert!(
            !outcome.status.success() && String::from_utf8_lossy(&outcome.stderr).contains("by hand"),
            "{outcome:?}"
        );
        assert_eq!(std::fs::read_to_string(folder.path().join("table")).expect("a table"), torn);
    }
}

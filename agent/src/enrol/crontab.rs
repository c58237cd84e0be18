//! The two crontab lines on the target, between markers that name the archive: other lines, and other archives', stay.

use blat_config::Settings;
use blat_domain::text::printable;

use crate::target::TargetError;
use crate::target::answer::{Input, ask};
use crate::target::bounded::Bounds;
use crate::target::install::shell_word;
use crate::target::transport::Transport;

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
    ask(transport.exec("exec /bin/sh").await?, Input::Bytes(script.into_bytes()), Bounds::FEW, each).await?;
    Ok(outcome)
}

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
word() {{ printf '%s' "$1" | sed "s/'/'\\\\''/g; s/%/\\\\%/g; 1s/^/'/; \$s/\$/'/"; }}
command -v crontab >/dev/null 2>&1 || die 'there is no crontab command here; install cron'
cd
archive=$(cd {archive} && pwd) || exit 1
bin=$(cd {bin} && pwd) || exit 1
if ! old=$(LC_ALL=C crontab -l 2>&1); then
    case $old in
    *'no crontab for'* | *"can't open"*) old= ;;
    *) die "crontab -l failed: $old" ;;
    esac
fi
begin="# blat begin $archive" end="# blat end $archive"
new=$(
    [ -z "$old" ] || printf '%s\n' "$old" |
        begin=$begin end=$end awk '$0 == ENVIRON["begin"] {{ ours = 1 }} !ours {{ print }}
            $0 == ENVIRON["end"] {{ ours = 0 }} END {{ if (ours) exit 3 }}' || exit 1
    printf '%s\n' "$begin"
    {jobs}
    printf '%s\n' "$end"
) || die "the crontab has a line \"$begin\" without its \"$end\"; mend it by hand with crontab -e"
if [ "$new" = "$old" ]; then
    done='current already'
else
    printf '%s\n' "$new" | crontab - || die 'crontab did not take the new lines'
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

    fn run(folder: &Path) -> Output {
        use std::os::unix::fs::PermissionsExt as _;
        let tools = folder.join("tools");
        std::fs::create_dir_all(&tools).expect("a folder");
        std::fs::create_dir_all(folder.join("it's 100% an archive")).expect("a folder");
        std::fs::create_dir_all(folder.join("bin")).expect("a folder");
        std::fs::write(tools.join("crontab"), FAKE).expect("a script");
        std::fs::set_permissions(tools.join("crontab"), std::fs::Permissions::from_mode(0o755)).expect("a mode");
        let path = format!("{}:{}", tools.display(), std::env::var("PATH").expect("a path"));
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &script("it's 100% an archive", "bin")]);
        shell.env("PATH", path).env("HOME", folder).env("TABLE", folder.join("table")).output().expect("a shell")
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

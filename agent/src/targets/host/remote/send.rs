//! Putting a build of `blat-receiver` on a target: sent whole, compared with its digest there, tried, and only then renamed into its place.

use super::builds::Build;
use super::{VERSION, why_not};
use crate::model::error::TargetError;
use crate::targets::host::install::{EXECUTABLE, Ran, shell_word};
use crate::transport::Transport;
use crate::transport::answer::{CommandInput, ask};
use crate::transport::bounded::Bounds;

/// One line in single quotes, since the script's standard input is the build: no login shell has anything to expand in it. Its arguments
/// are the directory, the digest and what the build must say of its version.
const SCRIPT: &str = concat!(
    r##"PATH=${PATH:-/usr/bin}:/usr/local/bin:/usr/bin:/bin; umask 022; mkdir -p "$1" && cd "$1" || exit 1; "##,
    r##"if [ -d blat-receiver ]; then echo "blat-receiver there is a directory; move it away" >&2; exit 1; fi; "##,
    r##"find .blat-receiver.* -mtime +0 -exec rm -f {} + 2>/dev/null; new=.blat-receiver.$$; "##,
    r##"trap "rm -f $new" EXIT; trap "exit 1" HUP INT TERM; cat >$new || exit 1; sum=$(sha256sum <$new) || exit 1; "##,
    r##"[ "${sum%% *}" = "$2" ] || { echo "what arrived is damaged or cut" >&2; exit 1; }; chmod 755 $new || exit 1; "##,
    r##"said=$(./$new --version 2>&1 </dev/null); ran=$?; "##,
    r##"if [ $ran = 0 ] && [ "$said" = "$3" ]; then { mv -f $new blat-receiver && sync; } || exit 1; fi; "##,
    r##"echo "# blat 1"; echo "ran $ran $(printf %s "$said" | head -n 1 | cut -c 1-200)"; echo "# end 1""##,
);

/// Installs `build` in `bin` if it runs there. The inner error says why not, and is fit for printing.
///
/// # Errors
/// Where the link broke, or only a person can mend it: then nothing is known of the target.
pub(super) async fn send(transport: &Transport, bin: &str, build: Build) -> Result<Result<(), String>, TargetError> {
    let (bin_word, version) = (shell_word(bin), shell_word(VERSION));
    let command = format!("exec /bin/sh -c '{SCRIPT}' sh {bin_word} {} {version}", build.digest);
    let mut ran = None;
    let each = |line: &str| {
        if let ["ran", ref words @ ..] = line.split(' ').collect::<Vec<_>>()[..] {
            ran = Ran::parse(words);
        }
        Ok(())
    };
    let asked = ask(transport.exec(&command).await?, CommandInput::Bytes(build.bytes), Bounds::FEW, each).await;
    match (asked, ran) {
        (Ok(()), Some(ran)) => Ok(why_not(&ran, bin).map_or(Ok(()), Err)),
        (Ok(()), None) => Ok(Err(format!("whether {EXECUTABLE} runs in {bin} was not said"))),
        (Err(TargetError::Refused(why) | TargetError::Space(why)), _) => {
            Ok(Err(format!("{EXECUTABLE} cannot be installed in {bin}: {why}")))
        }
        (Err(error @ (TargetError::Link(_) | TargetError::Operator(_))), _) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::SCRIPT;

    #[test]
    fn any_login_shell_passes_the_script_on_as_it_is() {
        assert!(
            !SCRIPT.contains(['\'', '\n', '!']),
            "a quote ends the word, and csh takes line ends and exclamation marks for its own"
        );
    }
}

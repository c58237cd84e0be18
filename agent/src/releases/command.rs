//! `release_manager: {command: [ARGV…]}`: a program of the site's own prints what it knows, as JSON.
//!
//! No shell is involved. The program ends with all that it started when nobody waits for it any longer.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use blat_domain::policy::release::Catalog;
use blat_domain::util::text::printable;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt as _};

use super::reader::Reader;
use super::{file, keeper};

/// So much of the end of what it says about itself is shown.
const SHOWN: usize = 200;
/// So many bytes of what it prints are passed on at once.
const PIECE: usize = 64 << 10;

/// Runs the program in `root` and has what it prints read by `reader`, which this process only passes it on to.
pub(super) async fn load(argv: &[String], root: &Path, mut reader: Reader) -> Result<Catalog, String> {
    if argv.is_empty() {
        return Err("it names no program".into());
    }
    let spawned = keeper::command(argv).current_dir(root).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut process = spawned.map_err(|error| format!("cannot start it: {error}"))?;
    // Closed as soon as nobody waits any longer, which ends it.
    let (Some(_wanted), Some(stdout), Some(stderr)) =
        (process.stdin.take(), process.stdout.take(), process.stderr.take())
    else {
        return Err("it has no pipes".into());
    };
    let (is_read, said) = tokio::try_join!(pass_on(stdout, &mut reader), end_of(stderr))?;
    if !is_read {
        // Its end has no meaning: it may have had nobody to print for.
        return Err(reader.finish().await.err().unwrap_or_else(|| "it was not read to its end".into()));
    }
    let status = process.wait().await.map_err(|error| format!("cannot wait for it: {error}"))?;
    let said = judge(status, &said)?;
    let read = reader.finish().await.map_err(|why| format!("what it prints cannot be used: {why}{said}"))?;
    Ok(read.catalog)
}

/// Passes on all that it prints, up to a bound. False where the reader takes no more.
async fn pass_on(mut stdout: impl AsyncRead + Unpin, reader: &mut Reader) -> Result<bool, String> {
    let (mut piece, mut passed) = (vec![0; PIECE], 0);
    loop {
        let count = stdout.read(&mut piece).await.map_err(|error| format!("cannot read what it prints: {error}"))?;
        passed += count as u64;
        if passed > file::LARGEST_TEXT {
            return Err(format!(
                "it prints more than {} MiB; print only what some target selects",
                file::LARGEST_TEXT >> 20
            ));
        }
        if count == 0 {
            return Ok(true);
        }
        if reader.text().write_all(&piece[..count]).await.is_err() {
            return Ok(false);
        }
    }
}

/// The end of what it says, however much that is.
pub(super) async fn end_of(mut stderr: impl AsyncRead + Unpin) -> Result<Vec<u8>, String> {
    let (mut said, mut more) = (Vec::new(), [0; 4096]);
    loop {
        match stderr.read(&mut more).await.map_err(|error| format!("cannot read what it says: {error}"))? {
            0 => return Ok(said),
            count => said.extend_from_slice(&more[..count]),
        }
        let surplus = said.len().saturating_sub(4 * SHOWN);
        said.drain(..surplus);
    }
}

/// What it printed counts only when it ended well.
/// Gives what it said.
fn judge(status: ExitStatus, said: &[u8]) -> Result<String, String> {
    let said = String::from_utf8_lossy(said);
    let said = said.trim();
    let from = said.char_indices().nth_back(SHOWN - 1).map_or(0, |(at, _)| at);
    let said = match said[from..].is_empty() {
        true => String::new(),
        false => format!("; it said: {}{}", if from > 0 { "…" } else { "" }, printable(&said[from..])),
    };
    if !status.success() {
        // How an exit status tells itself: "exit status: 3", "signal: 9 (SIGKILL)".
        return Err(format!("it ended with {status}{said}"));
    }
    if !said.is_empty() {
        tracing::info!("the release_manager's command succeeded{said}");
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use blat_config::ReleaseSource;
    use blat_domain::policy::release::Selection;

    use super::*;
    use crate::releases::Purpose;

    async fn shell(script: &str) -> Result<Catalog, String> {
        let argv = ["sh", "-c", script].map(ToOwned::to_owned);
        let source = ReleaseSource::Command { argv: argv.to_vec() };
        let selection = Selection { projects: vec!["P".into()], ..Selection::default() };
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let place = scratch.path().join("state/perth");
        let reader = Reader::start(&source, &selection, Duration::from_secs(60), Purpose::Looking, &place).await?;
        load(&argv, Path::new("/"), reader).await
    }

    #[tokio::test]
    async fn what_it_prints_counts_only_when_it_ends_well() {
        let printed = r#"echo '{"projects": [{"name": "P"}]}'"#;
        assert_eq!(shell(printed).await.expect("good").projects.len(), 1);
        let failed =
            shell(&format!("{printed}; echo 'no  \u{1b}[2Jlistener' >&2; exit 3")).await.expect_err("status 3");
        assert_eq!(failed, "it ended with exit status: 3; it said: no  \\u{1b}[2Jlistener");
        let half = shell(r#"printf '{"projects": [{"name"'"#).await.expect_err("half of it");
        assert!(half.contains("what it prints cannot be used") && half.contains("not the documented JSON"), "{half}");
        assert!(shell(&format!("{printed}; kill -9 $$")).await.expect_err("a signal").contains("signal: 9"));
    }

    #[tokio::test]
    async fn a_flood_on_either_stream_is_bounded() {
        let failed =
            shell("yes 'much to say' | head -c 3000000 >&2; echo last words >&2; exit 1").await.expect_err("1");
        assert!(failed.ends_with("last words") && failed.len() < 300, "{failed}");
        assert!(shell("yes").await.expect_err("an endless list").contains("more than 64 MiB"));
    }

    #[tokio::test]
    async fn what_it_leaves_behind_ends_with_it_whatever_that_holds_open() {
        for to in ["", ">/dev/null 2>&1"] {
            let scratch = tempfile::tempdir().expect("a scratch directory");
            let pid = scratch.path().join("pid");
            let left = format!("setsid sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000' {to}", pid.display());
            let wait = format!("while ! [ -e {} ]; do sleep 0.1; done", pid.display());
            shell(&format!("{left} & {wait}; echo '{{}}'")).await.expect("a catalog");
            assert_ends(&pid).await;
        }
    }

    #[tokio::test]
    async fn nothing_of_it_is_left_when_nobody_waits_any_longer() {
        // The second one leaves the group and the session, and has lost its parent.
        for (way, then, after) in [("sh -c", "; wait", ""), ("setsid sh -c", "", "; sleep 1000")] {
            let scratch = tempfile::tempdir().expect("a scratch directory");
            let pid = scratch.path().join("pid");
            // The child of the child holds the file open, as long as it lives.
            let script = format!("{way} 'sleep 1000 & echo $! > {0}.new; mv {0}.new {0}{then}'{after}", pid.display());
            let started = async {
                while !pid.exists() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::select! {
                ended = shell(&script) => panic!("it was to wait: {ended:?}"),
                () = started => {}
            }
            assert_ends(&pid).await;
        }
    }

    /// The process whose number is in this file.
    async fn assert_ends(pid: &Path) {
        let pid = std::fs::read_to_string(pid).expect("the number of a process");
        let command_line = format!("/proc/{}/cmdline", pid.trim());
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        // A zombie that nobody has taken notice of yet has an empty command line.
        while !std::fs::read(&command_line).unwrap_or_default().is_empty() {
            assert!(std::time::Instant::now() < deadline, "process {pid} lives");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

//! `blat tag`: drops tags so that no reader ever finds half of one, and waits for them where that is wanted.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use blat_config::{Home, load_target};
use blat_domain::package::name::{PackageId, TargetName};
use blat_domain::protocol::status::{Queue, State};
use blat_domain::util::text::printable;
use blat_domain::util::units::show_duration;

use crate::args::TagArgs;
use crate::commands::targets;
use crate::dropped::Dropped;
use crate::failure::{Exit, Failure, Outcome};
use crate::master::Master;
use crate::picture::counted;
use crate::progress::Progress;
use crate::style::Style;

/// How often a dropped tag is looked at.
const BEAT: Duration = Duration::from_millis(20);
/// How often the master is asked what it does meanwhile, and whether it and the tag directories are still there.
const LOOK_UP: Duration = Duration::from_millis(500);

/// Drops a tag for each target, and waits for all of them.
pub(crate) fn run(home: &Home, args: &TagArgs) -> Outcome {
    let package = args.package.package()?;
    let targets = chosen(home, &args.targets)?;
    let served = Master::find(home)?.is_some();
    if args.wait && !served {
        return Err(Failure::no_master().hint("without --wait the tag is dropped, and acted on after `blat start`"));
    }
    let mut dropped = Vec::new();
    let mut failures = Vec::new();
    for target in targets {
        match drop_for(home, target, &package) {
            Ok(tag) => dropped.push(tag),
            // One target's trouble costs the others nothing.
            Err(failure) => failures.push(failure),
        }
    }
    if !args.wait {
        for tag in &dropped {
            writeln!(io::stdout(), "{package} is tagged for {}", tag.target)?;
        }
        if !served && !dropped.is_empty() {
            let what = if dropped.len() == 1 { "this tag waits" } else { "these tags wait" };
            // Where standard error is gone, the tag is dropped all the same.
            let _ = writeln!(io::stderr(), "blat: no master is running: {what} for `blat start`");
        }
    } else if !dropped.is_empty() {
        failures.extend(wait(home, dropped, &package).err());
    }
    let last = failures.pop();
    failures.iter().for_each(Failure::say);
    last.map_or(Ok(Exit::DONE), Err)
}

/// The targets that were named, or all there are.
fn chosen(home: &Home, named: &[TargetName]) -> Result<Vec<TargetName>, Failure> {
    named.iter().try_for_each(|target| targets::known(home, target))?;
    let mut names = if named.is_empty() { targets::all(home)? } else { named.to_vec() };
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err(Failure::failed("there is no target to tag").hint("each target is a file config/TARGET.conf"));
    }
    Ok(names)
}

fn drop_for(home: &Home, target: TargetName, package: &PackageId) -> Result<Dropped, Failure> {
    let settings = load_target(home, &target).map_err(|complaints| {
        let count = counted(complaints.list().len() as u64, "complaint");
        let verdict = complaints.verdict();
        Failure::new(Exit::CONFIG, format!("cannot tag {package} for {target}: its config {verdict}: {count}"))
            .hint(format!("`blat check {target}` shows what is wrong"))
    })?;
    let where_to = printable(&settings.tags.to_string_lossy());
    Dropped::new(home, target.clone(), settings.tags, package)
        .map_err(|error| Failure::failed(format!("cannot tag {package} for {target} in {where_to}: {error}")))
}

/// Waits until every tag is gone: removed when its package is published, or set aside with a reason, or lost.
fn wait(home: &Home, mut open: Vec<Dropped>, package: &PackageId) -> Result<(), Failure> {
    let mut progress = Progress::new(Style::of_stdout());
    let mut failed: Option<Failure> = None;
    let mut next_look = Instant::now();
    while !open.is_empty() {
        let (still, gone): (Vec<_>, Vec<_>) = open.into_iter().partition(Dropped::is_there);
        for tag in gone {
            failed = settle(home, &tag, package, &mut progress)?.or(failed);
        }
        open = still;
        if !open.is_empty() && Instant::now() >= next_look {
            let (still, lost): (Vec<_>, Vec<_>) =
                open.into_iter().map(|tag| (tag.check_place(), tag)).partition(|(place, _)| place.is_ok());
            for (place, tag) in lost {
                let why = place.err().map(|error| error.to_string()).unwrap_or_default();
                failed = Some(lost_in_place(&tag, package, &why, &mut progress)?);
            }
            open = still.into_iter().map(|(_, tag)| tag).collect();
            look_up(home, &open, &mut progress)?;
            next_look = Instant::now() + LOOK_UP;
        }
        if !open.is_empty() {
            thread::sleep(BEAT);
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Says what became of a tag that is gone, and fails unless its package is on the target. That the tag is gone proves nothing: whoever may
/// write to its directory can remove it. The agent reports before it removes one.
fn settle(
    home: &Home,
    tag: &Dropped,
    package: &PackageId,
    progress: &mut Progress,
) -> Result<Option<Failure>, Failure> {
    let (target, after) = (&tag.target, tag.at.elapsed());
    if let Some(why) = tag.reason()? {
        progress.end(target, &format!("{package} is not on {target}: {why}"))?;
        return Ok(Some(Failure::failed(format!("{package} cannot get to {target}: {why}"))));
    }
    if tag.is_reported(home)? {
        progress.end(target, &format!("{package} is on {target} after {}", show(after)))?;
        return Ok(None);
    }
    let place = tag.place();
    progress.end(target, &format!("{package} may not be on {target}: its tag disappeared"))?;
    let text = format!(
        "the tag of {package} disappeared from {place}, but the agent of {target} did not report that it published the package: another \
         process removed or moved the tag"
    );
    Ok(Some(Failure::failed(text).hint(format!(
        "`blat why {} {} --target {target}` shows whether it is there; run `blat tag` again",
        package.name, package.version
    ))))
}

/// A tag that waits where no agent looks.
fn lost_in_place(tag: &Dropped, package: &PackageId, why: &str, progress: &mut Progress) -> Result<Failure, Failure> {
    let (target, place) = (&tag.target, tag.place());
    progress.end(target, &format!("{package} may not be on {target}: its tag directory was replaced"))?;
    Ok(Failure::failed(format!("cannot wait for the tag of {package} for {target} in {place}: {why}")))
}

/// Shows what the awaited targets do. Without a master there is nothing to wait for.
fn look_up(home: &Home, open: &[Dropped], progress: &mut Progress) -> Result<(), Failure> {
    let status = match Master::find(home)? {
        Some(master) => master.status()?,
        None => {
            return Err(Failure::new(Exit::NO_MASTER, "the master went away; the tags stay")
                .hint("they are acted on after `blat start`"));
        }
    };
    for tag in open {
        match status.targets.iter().find(|target| target.name == tag.target) {
            Some(target) => progress.tell(&tag.target, target.state, target.queue, target.current.as_ref()),
            // The master has not noticed its config yet.
            None => progress.tell(&tag.target, State::Starting, Queue::default(), None),
        }
    }
    Ok(())
}

/// Milliseconds while they matter.
fn show(after: Duration) -> String {
    if after < Duration::from_secs(10) { format!("{} ms", after.as_millis()) } else { show_duration(after) }
}

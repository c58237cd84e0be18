//! What builders, Release Manager and operators do.

use blat_tests::{Dice, process};
use rustix::process::Signal;

use super::model::{Package, Release, TARGETS};
use super::world::World;

/// Any of the targets.
fn target(dice: &mut Dice) -> &'static str {
    TARGETS[dice.below(TARGETS.len() as u64) as usize]
}

/// A package of any shape, from nothing but its descpkg to some megabytes.
pub(crate) fn put_into_source(world: &World, (name, version): &Package, dice: &mut Dice) {
    let (shape, size) = (dice.below(7), dice.below(200_000) as usize);
    world.lab.package(name, version, |p| match shape {
        0 => p,
        1 => p.noise("lib/big", 2 << 20).noise("lib/other", size).symlink("lib/link", "big"),
        2 => (0..60).fold(p, |p, n| p.file(&format!("d{}/file {n}", n % 7), vec![b'x'; size / 100])),
        3 => p.exec("bin/run", "#!/bin/sh\n").empty_dir("empty").symlink("dangling", "/not/there"),
        5 => p.noise("lib/one", size).hard_link("lib/two", "lib/one").hard_link("bin/three", "lib/one"),
        // Much like the version before it.
        4 => p.file("lib/same", "the same in every version\n".repeat(size / 20)).noise("lib/tail", 100),
        _ => p.file("größe/日本", "y".repeat(size)).noise("data", size),
    });
}

/// A new version, which is listed, tagged, or left alone.
pub(crate) fn build(world: &mut World, dice: &mut Dice) {
    let package = world.model.new_package(dice);
    put_into_source(world, &package, dice);
    world.model.built.push(package.clone());
    match dice.below(4) {
        0 | 1 => {
            let release = any_release(world, dice);
            world.model.releases[release].packages.insert(package);
            world.tell_releases();
        }
        2 => world.drop_tag(target(dice), &package),
        _ => {}
    }
}

pub(crate) fn tag(world: &mut World, dice: &mut Dice) {
    if let Some(package) = world.model.any(dice) {
        world.drop_tag(target(dice), &package);
    }
}

pub(crate) fn tag_early(world: &mut World, dice: &mut Dice) {
    let package = world.model.new_package(dice);
    world.drop_tag(target(dice), &package);
    world.model.early.push(package);
}

pub(crate) fn build_tagged(world: &mut World, dice: &mut Dice) {
    if let Some(package) = world.model.early.pop() {
        put_into_source(world, &package, dice);
        world.model.built.push(package);
    }
}

/// It lands in `bad/`, and nobody minds.
pub(crate) fn tag_nonsense(world: &mut World, dice: &mut Dice) {
    let words = ["no-version-at-all", "..@1", "core@", "@1.2"];
    let word = words[dice.below(words.len() as u64) as usize];
    world.drop_file(target(dice), &format!("nonsense-{}", dice.below(5)), &format!("{word}\n"));
}

fn any_release(world: &World, dice: &mut Dice) -> usize {
    dice.below(world.model.releases.len() as u64) as usize
}

pub(crate) fn list(world: &mut World, dice: &mut Dice) {
    if let Some(package) = world.model.any(dice) {
        let release = any_release(world, dice);
        world.model.releases[release].packages.insert(package);
        world.tell_releases();
    }
}

/// One package at least stays: a release that has lost all of them holds deletions back, which is tested elsewhere.
pub(crate) fn unlist(world: &mut World, dice: &mut Dice) {
    let number = any_release(world, dice);
    let release = &mut world.model.releases[number];
    if release.packages.len() > 1 {
        let package = release.packages.iter().nth(dice.below(release.packages.len() as u64) as usize).cloned();
        release.packages.remove(&package.expect("fewer than there are"));
        world.tell_releases();
    }
}

pub(crate) fn open_release(world: &mut World, dice: &mut Dice) {
    if let Some(package) = world.model.any(dice) {
        world.model.releases.push(Release { open: true, packages: [package].into() });
        world.tell_releases();
    }
}

/// Or opened again; the first one stays open.
pub(crate) fn close_release(world: &mut World, dice: &mut Dice) {
    let number = any_release(world, dice);
    if number > 0 {
        let release = &mut world.model.releases[number];
        release.open = !release.open;
        world.tell_releases();
    }
}

pub(crate) fn pin(world: &mut World, dice: &mut Dice) {
    if let Some(package) = world.model.any(dice) {
        let target = target(dice);
        world.model.pins.entry(target).or_default().insert(package);
        world.configure(target);
    }
}

pub(crate) fn unpin(world: &mut World, dice: &mut Dice) {
    let target = target(dice);
    if world.model.pins.get_mut(target).and_then(std::collections::BTreeSet::pop_first).is_some() {
        world.configure(target);
    }
}

/// The last good settings go on.
pub(crate) fn spoil_config(world: &mut World, dice: &mut Dice) {
    let texts = ["", "port: 70000\n", "host: [\n", "# all of it is a comment\n"];
    world.lab.raw_config(target(dice), texts[dice.below(texts.len() as u64) as usize]);
}

pub(crate) fn take_away(world: &mut World, dice: &mut Dice) {
    let path = world.lab.home().join(format!("config/{}.conf", target(dice)));
    if let Err(error) = std::fs::remove_file(&path) {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}: {error}", path.display());
    }
}

pub(crate) fn mend_configs(world: &mut World, _: &mut Dice) {
    TARGETS.iter().for_each(|target| world.configure(target));
}

/// By a command or by a signal. Neither waits, and a target that was taken away has none.
pub(crate) fn sync(world: &mut World, dice: &mut Dice) {
    if dice.below(2) == 0 {
        let outcome = world.lab.blat(&["sync", target(dice)]);
        println!("  it ended with {:?}", outcome.code);
    } else {
        process::signal(world.master, Signal::USR1);
    }
}

pub(crate) fn roll_logs(world: &mut World, _: &mut Dice) {
    process::signal(world.master, Signal::HUP);
}

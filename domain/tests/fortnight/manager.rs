//! Release Manager and the source archive, as people and builds change them; and what is wanted, reckoned without Blat's own code.

use std::collections::{BTreeMap, BTreeSet};

use blat_domain::package::name::{PackageId, Version};
use blat_domain::policy::plan::{Blocker, Size, Source};
use blat_domain::policy::release::{Catalog, Project, Release, ReleaseKey, ReleaseState, Selection};
use blat_tests::Dice;

/// The projects that there are.
pub(crate) const PROJECTS: [&str; 3] = ["Perth Metro", "Oslo Tram", "Sydney Ferry"];
/// Names of packages.
const NAMES: u64 = 25;
/// Closed releases that a project still lists.
const REMEMBERED: usize = 15;
/// A project has at least and at most so many releases that are not closed.
const FEWEST: usize = 4;
const MOST: usize = 10;

/// A package at the source, as it truly is.
enum Kept {
    Package { time: i64, bytes: u64 },
    Link(Version),
}

/// All that lies on the master's side.
pub(crate) struct Manager {
    /// What Release Manager says when it is well.
    pub(crate) catalog: Catalog,
    kept: BTreeMap<PackageId, Kept>,
    /// Packages that are not finished, and until when.
    unfinished: BTreeMap<PackageId, i64>,
    made: u64,
    /// How many releases were opened and closed.
    pub(crate) opened: i64,
    pub(crate) closed: u64,
}

/// A package or version from its text.
pub(crate) fn id(text: &str) -> PackageId {
    text.parse().expect("a package")
}

impl Manager {
    /// Each project with one release, and links for some names.
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let projects = PROJECTS.map(|name| Project { name: name.into(), releases: Vec::new() }).into();
        let catalog = Catalog { projects, ..Catalog::default() };
        let (kept, unfinished) = (BTreeMap::new(), BTreeMap::new());
        let mut manager = Self { catalog, kept, unfinished, made: 0, opened: 0, closed: 0 };
        for name in 0..NAMES {
            let first = id(&format!("p{name}@0"));
            manager.kept.insert(first.clone(), Kept::Package { time: 0, bytes: 100 });
            if name % 5 == 0 {
                manager.kept.insert(id(&format!("p{name}@current")), Kept::Link(first.version));
            }
        }
        for project in 0..PROJECTS.len() {
            (0..3).for_each(|_| manager.open(project, 0, dice));
        }
        manager
    }

    /// One working half hour.
    pub(crate) fn work(&mut self, now: i64, dice: &mut Dice) {
        self.rest(now);
        let project = dice.below(PROJECTS.len() as u64) as usize;
        if dice.below(3) > 0 && self.alive(project) < MOST {
            self.open(project, now, dice);
        }
        let project = dice.below(PROJECTS.len() as u64) as usize;
        match dice.below(8) {
            0..=3 => (0..3).for_each(|_| self.turn(project, ReleaseState::Closed, dice)),
            4 => self.turn(project, ReleaseState::Restricted, dice),
            5 => self.turn(project, ReleaseState::Open, dice),
            6 => self.rebuild(now, dice),
            _ => self.repoint(dice),
        }
    }

    /// Time passes, and nothing happens but what was under way.
    pub(crate) fn rest(&mut self, now: i64) {
        self.unfinished.retain(|_, until| *until > now);
    }

    fn open(&mut self, project: usize, now: i64, dice: &mut Dice) {
        let mut packages = BTreeSet::new();
        for _ in 0..2 + dice.below(4) {
            let package = if dice.below(2) == 0 { self.build(now, dice) } else { self.any(dice) };
            packages.insert(package);
        }
        self.opened += 1;
        let (id, name) = (self.opened, format!("R{}", self.opened));
        let packages = packages.into_iter().collect();
        let release = Release { id, name, state: ReleaseState::Open, s3sync: false, packages };
        self.catalog.projects[project].releases.push(release);
    }

    /// A new package, which may take some hours to be finished.
    fn build(&mut self, now: i64, dice: &mut Dice) -> PackageId {
        self.made += 1;
        let package = id(&format!("p{}@{}", dice.below(NAMES), self.made));
        self.kept.insert(package.clone(), Kept::Package { time: now, bytes: 1 + dice.below(1_000) });
        if dice.below(6) == 0 {
            self.unfinished.insert(package.clone(), now + dice.below(4 * 3_600) as i64);
        }
        package
    }

    /// Some package or link of the source.
    pub(crate) fn any(&self, dice: &mut Dice) -> PackageId {
        let index = dice.below(self.kept.len() as u64) as usize;
        self.kept.keys().nth(index).expect("as many as there are").clone()
    }

    /// Some release gets another state. A project keeps a few that are not closed, as projects do.
    fn turn(&mut self, project: usize, state: ReleaseState, dice: &mut Dice) {
        let alive = self.alive(project);
        let releases = &mut self.catalog.projects[project].releases;
        let index = dice.below(releases.len() as u64) as usize;
        let (was_closed, is_closed) = (releases[index].state == ReleaseState::Closed, state == ReleaseState::Closed);
        if is_closed && (was_closed || alive < FEWEST) || was_closed && alive > MOST {
            return;
        }
        releases[index].state = state;
        self.closed += u64::from(is_closed);
        // Some day the oldest closed ones are forgotten; the very first is named by a config.
        let is_old = |release: &&Release| release.id != 1 && release.state == ReleaseState::Closed;
        let old: Vec<i64> = releases.iter().filter(is_old).map(|release| release.id).collect();
        if old.len() > REMEMBERED {
            releases.retain(|release| release.id != old[0]);
        }
    }

    /// How many releases of a project are not closed.
    fn alive(&self, project: usize) -> usize {
        self.catalog.projects[project].releases.iter().filter(|release| release.state != ReleaseState::Closed).count()
    }

    /// A package is built anew: its descpkg gets another time, older or newer.
    fn rebuild(&mut self, now: i64, dice: &mut Dice) {
        let package = self.any(dice);
        if let Some(Kept::Package { time, .. }) = self.kept.get_mut(&package) {
            *time = now - dice.below(100_000) as i64;
        }
    }

    /// A link is made to address another version.
    fn repoint(&mut self, dice: &mut Dice) {
        let name = dice.below(NAMES / 5) * 5;
        let link = id(&format!("p{name}@current"));
        let versions = self.kept.keys().filter(|package| package.name == link.name && **package != link);
        let version = versions.max_by_key(|package| package.version.as_str().parse::<u64>().ok());
        let version = version.expect("each name has a first version").version.clone();
        self.kept.insert(link, Kept::Link(version));
    }

    /// The source as the agent sees it.
    pub(crate) fn look(&self, package: &PackageId) -> Source {
        match self.kept.get(package) {
            None => Source::Held(Blocker::Missing),
            Some(Kept::Link(to)) => Source::Link { to: to.clone() },
            Some(Kept::Package { .. }) if self.unfinished.contains_key(package) => Source::Held(Blocker::Incomplete),
            Some(Kept::Package { time, bytes }) => {
                Source::Ready { time: *time, size: Size { bytes: *bytes, entries: 1 } }
            }
        }
    }

    /// What a target should hold, by the words of the documentation: releases named, releases of projects named that are not closed,
    /// less what the filter keeps out, pins, and all that links among these address.
    pub(crate) fn wanted(&self, selection: &Selection) -> BTreeSet<PackageId> {
        let mut wanted = BTreeSet::new();
        for project in &self.catalog.projects {
            let is_named = selection.projects.contains(&project.name);
            for release in &project.releases {
                let by_id = selection.releases.contains(&ReleaseKey::Id(release.id));
                if by_id || is_named && release.state != ReleaseState::Closed {
                    let admitted = release.packages.iter().filter(|package| selection.filter.admits(&package.name));
                    wanted.extend(admitted.cloned());
                }
            }
        }
        wanted.extend(selection.pinned.iter().cloned());
        let mut waiting: Vec<PackageId> = wanted.iter().cloned().collect();
        while let Some(package) = waiting.pop() {
            if let Some(Kept::Link(to)) = self.kept.get(&package) {
                let addressee = PackageId { name: package.name, version: to.clone() };
                if wanted.insert(addressee.clone()) {
                    waiting.push(addressee);
                }
            }
        }
        wanted
    }
}

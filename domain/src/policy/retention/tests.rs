use proptest::prelude::*;

use super::*;
use crate::policy::release::Reason;

const NOW: i64 = 1_700_000_000;
const WAIT: u64 = 1_000;

fn id(n: u8) -> PackageId {
    format!("p{}@{}", n / 4, n % 4).parse().expect("a package")
}

/// One state of everything, as chance has it.
#[derive(Debug, Clone)]
struct World {
    aging: Aging,
    max_delete: MaxDelete,
    wanted: WantedSet,
    inventory: Inventory,
    clock_doubt: Option<Doubt>,
    distrust: Option<Distrust>,
    tagged: BTreeMap<PackageId, i64>,
}

impl World {
    fn circumstances(&self) -> Circumstances<'_> {
        Circumstances {
            aging: self.aging,
            max_delete: self.max_delete,
            is_confirmed: false,
            wanted: &self.wanted,
            inventory: &self.inventory,
            clock_doubt: self.clock_doubt.clone(),
            distrust: self.distrust.clone(),
            tagged: &self.tagged,
            known_up_to: NOW,
        }
    }

    fn decide(&self) -> Upkeep {
        decide(&self.circumstances())
    }
}

/// Four packages on a target that wants the first of them; nothing stands in the way of deleting the others.
fn world(aging: Aging) -> World {
    let packages = (0..4).map(|n| (id(n), 5)).collect();
    World {
        aging,
        max_delete: MaxDelete::Percent(100),
        wanted: [(id(0), [Reason::Pinned].into())].into(),
        inventory: Inventory { packages, clock: Some(NOW), ..Inventory::default() },
        clock_doubt: None,
        distrust: None,
        tagged: BTreeMap::new(),
    }
}

fn after(by: Deleter) -> Aging {
    Aging::After { by, wait: Duration::from_secs(WAIT) }
}

fn said(upkeep: &Upkeep) -> Vec<String> {
    let word = |action: &AgingAction| match action {
        AgingAction::Unmark => "unmark",
        AgingAction::Mark { .. } => "mark",
        AgingAction::Delete { .. } => "delete",
    };
    upkeep.steps.iter().map(|step| format!("{} {}", word(&step.action), step.package)).collect()
}

fn any_aging() -> impl Strategy<Value = Aging> {
    let wait = prop_oneof![Just(WAIT), Just(2 * WAIT)].prop_map(Duration::from_secs);
    prop_oneof![
        1 => Just(Aging::None),
        2 => Just(Aging::Immediate),
        3 => wait.clone().prop_map(|wait| Aging::After { by: Deleter::Master, wait }),
        2 => wait.prop_map(|wait| Aging::After { by: Deleter::Target, wait }),
    ]
}

fn any_inventory() -> impl Strategy<Value = Inventory> {
    let mark = (NOW - 3_000..NOW + 3_000, prop_oneof![Just(WAIT), Just(2 * WAIT)]);
    (
        proptest::collection::btree_map((0u8..24).prop_map(id), 0i64..9, 0..20),
        proptest::collection::btree_map((24u8..32).prop_map(id), (0u8..4).prop_map(|n| n.to_string()), 0..4),
        proptest::collection::btree_map((0u8..32).prop_map(id), mark, 0..12),
        prop_oneof![9 => Just(Some(NOW)), 1 => Just(None)],
    )
        .prop_map(|(packages, links, marks, clock)| {
            let marks = marks.into_iter().map(|(id, (at, wait))| (id, Mark { at, wait })).collect();
            Inventory { packages, links, marks, clock, ..Inventory::default() }
        })
}

prop_compose! {
    fn any_world()(
        aging in any_aging(),
        max_delete in prop_oneof![(0u8..=100).prop_map(MaxDelete::Percent), (0u64..20).prop_map(MaxDelete::Count)],
        wanted in proptest::collection::btree_set((0u8..32).prop_map(id), 0..20),
        inventory in any_inventory(),
        clock_doubt in prop_oneof![4 => Just(None), 1 => Just(Some(Doubt::Set { seconds: 9_000 }))],
        distrust in prop_oneof![6 => Just(None), 1 => Just(Some(Distrust::Snapshot)), 1 => Just(Some(Distrust::Incomplete))],
        tagged in proptest::collection::btree_map((0u8..32).prop_map(id), NOW - 5..NOW + 5, 0..6),
    ) -> World {
        let wanted = wanted.into_iter().map(|id| (id, [Reason::Pinned].into())).collect();
        World { aging, max_delete, wanted, inventory, clock_doubt, distrust, tagged }
    }
}

fn is_taking(step: &AgingStep) -> bool {
    step.action != AgingAction::Unmark
}

proptest! {
    #[test]
    fn nothing_wanted_is_ever_marked_or_deleted(world in any_world()) {
        let upkeep = world.decide();
        prop_assert!(upkeep.steps.iter().filter(|step| is_taking(step)).all(|step| !world.wanted.contains_key(&step.package)));
        let marked_and_wanted = world.inventory.marks.keys().filter(|package| world.wanted.contains_key(package));
        for package in marked_and_wanted {
            let unmarked = upkeep.steps.iter().any(|step| step.package == *package && step.action == AgingAction::Unmark);
            prop_assert!(unmarked, "{package} stays marked");
        }
    }

    #[test]
    fn an_empty_wanted_set_or_a_cycle_that_failed_takes_nothing(world in any_world(), empty in any::<bool>()) {
        let mut world = world;
        if empty {
            world.wanted.clear();
        } else {
            world.distrust.get_or_insert(Distrust::Snapshot);
        }
        prop_assert!(!world.decide().steps.iter().any(is_taking));
    }

    #[test]
    fn a_clock_that_was_set_ages_nothing_out(world in any_world()) {
        let mut world = world;
        world.clock_doubt = Some(Doubt::Set { seconds: 9_000 });
        let upkeep = world.decide();
        let aged = upkeep.steps.iter().any(|step| is_taking(step) && world.aging != Aging::Immediate);
        prop_assert!(!aged, "{upkeep:?}");
    }

    #[test]
    fn only_marks_that_have_waited_by_the_targets_clock_are_followed(world in any_world()) {
        for step in world.decide().steps {
            if let (AgingAction::Delete { .. }, Aging::After { by, wait }) = (step.action, world.aging) {
                let mark = world.inventory.marks[&step.package];
                prop_assert_eq!(by, Deleter::Master);
                prop_assert!(mark.at + wait.as_secs() as i64 <= NOW, "{:?}", mark);
            }
        }
    }

    #[test]
    fn the_guards_limit_is_never_passed_unless_confirmed(world in any_world()) {
        let upkeep = world.decide();
        let taken = upkeep.steps.iter().filter(|step| is_taking(step) && !world.inventory.marks.contains_key(&step.package));
        let deleted = upkeep.steps.iter().filter(|step| matches!(step.action, AgingAction::Delete { .. }));
        let touched: BTreeSet<_> = taken.chain(deleted).map(|step| &step.package).collect();
        let held = (world.inventory.packages.len() + world.inventory.links.len()) as u64;
        prop_assert!(judge(touched.len() as u64, held, world.max_delete).is_ok());
        let confirmed = decide(&Circumstances { is_confirmed: true, ..world.circumstances() });
        prop_assert!(confirmed.refusal.is_none());
    }

    #[test]
    fn what_a_newer_tag_brought_is_spared(world in any_world()) {
        let newer: BTreeSet<_> = world.tagged.iter().filter(|(_, at)| **at >= NOW).map(|(package, _)| package).collect();
        prop_assert!(!world.decide().steps.iter().any(|step| is_taking(step) && newer.contains(&step.package)));
    }

    #[test]
    fn no_package_has_two_steps_and_deletions_come_last(world in any_world()) {
        let upkeep = world.decide();
        let packages: BTreeSet<_> = upkeep.steps.iter().map(|step| &step.package).collect();
        prop_assert_eq!(packages.len(), upkeep.steps.len());
        let rank = |step: &AgingStep| match step.action {
            AgingAction::Unmark => 0,
            AgingAction::Mark { .. } => 1,
            AgingAction::Delete { .. } => 2,
        };
        prop_assert!(upkeep.steps.iter().map(rank).is_sorted());
    }
}

#[test]
fn extra_packages_stay_without_aging_and_their_marks_go() {
    let mut world = world(Aging::None);
    world.inventory.marks.insert(id(1), Mark { at: NOW - 5_000, wait: WAIT });
    assert_eq!(said(&world.decide()), ["unmark p0@1"]);
}

#[test]
fn immediate_deletes_what_nothing_wants() {
    assert_eq!(said(&world(Aging::Immediate).decide()), ["delete p0@1", "delete p0@2", "delete p0@3"]);
}

#[test]
fn the_master_marks_waits_and_deletes() {
    let mut world = world(after(Deleter::Master));
    world.inventory.marks.insert(id(1), Mark { at: NOW - WAIT as i64, wait: WAIT });
    world.inventory.marks.insert(id(2), Mark { at: NOW - WAIT as i64 + 1, wait: WAIT });
    assert_eq!(said(&world.decide()), ["mark p0@3", "delete p0@1"]);
}

#[test]
fn a_target_that_deletes_by_itself_is_only_marked() {
    let mut world = world(after(Deleter::Target));
    world.inventory.marks.insert(id(1), Mark { at: NOW - 5_000, wait: WAIT });
    assert_eq!(said(&world.decide()), ["mark p0@2", "mark p0@3"]);
}

#[test]
fn another_wait_or_a_mark_from_the_future_is_marked_anew() {
    let mut world = world(after(Deleter::Master));
    world.inventory.marks.insert(id(1), Mark { at: NOW - 5_000, wait: 1 });
    world.inventory.marks.insert(id(2), Mark { at: NOW + 86_400, wait: WAIT });
    world.inventory.marks.insert(id(3), Mark { at: NOW + 5, wait: WAIT });
    let upkeep = world.decide();
    let whys: Vec<AgingReason> = upkeep.steps.iter().map(|step| step.why).collect();
    assert_eq!(
        (said(&upkeep), whys),
        (vec!["mark p0@1".into(), "mark p0@2".into()], vec![AgingReason::OtherWait, AgingReason::FromTheFuture])
    );
}

#[test]
fn marks_are_taken_away_when_wanted_again_gone_or_of_unknown_age() {
    let mut world = world(after(Deleter::Master));
    world.clock_doubt = Some(Doubt::Untold);
    for n in [0, 1, 9] {
        world.inventory.marks.insert(id(n), Mark { at: NOW - 5_000, wait: WAIT });
    }
    let upkeep = world.decide();
    let whys: Vec<AgingReason> = upkeep.steps.iter().map(|step| step.why).collect();
    assert_eq!(said(&upkeep), ["unmark p0@0", "unmark p0@1", "unmark p2@1"]);
    assert_eq!(whys, [AgingReason::Wanted, AgingReason::ClockDoubted, AgingReason::Gone]);
}

#[test]
fn what_a_wanted_link_addresses_stays_and_an_unwanted_link_goes_first() {
    let mut world = world(Aging::Immediate);
    let link = |text: &str| text.parse::<PackageId>().expect("a package");
    world.inventory.links = [(link("p0@now"), "1".into()), (link("p0@old"), "2".into())].into();
    world.wanted.insert(link("p0@now"), [Reason::Pinned].into());
    assert_eq!(said(&world.decide()), ["delete p0@old", "delete p0@2", "delete p0@3"]);
}

#[test]
fn what_a_wanted_links_chain_on_the_target_leads_to_stays_and_a_circle_ends() {
    let mut world = world(Aging::Immediate);
    let link = |text: &str| text.parse::<PackageId>().expect("a package");
    let links = [("p0@now", "newest"), ("p0@newest", "2"), ("p0@ring", "round"), ("p0@round", "ring")];
    world.inventory.links = links.map(|(from, to)| (link(from), to.into())).into();
    for wanted in ["p0@now", "p0@ring"] {
        world.wanted.insert(link(wanted), [Reason::Pinned].into());
    }
    assert_eq!(said(&world.decide()), ["delete p0@1", "delete p0@3"], "spared, though nothing makes them wanted");
}

#[test]
fn the_guard_keeps_all_and_says_why() {
    let mut world = world(Aging::Immediate);
    world.max_delete = MaxDelete::Count(2);
    let upkeep = world.decide();
    assert_eq!((upkeep.steps.len(), upkeep.refusal.map(|refusal| refusal.touched)), (0, Some(3)));
    let confirmed = decide(&Circumstances { is_confirmed: true, ..world.circumstances() });
    assert_eq!(confirmed.steps.len(), 3);
}

#[test]
fn a_plan_keeps_its_form_as_json() {
    let mut world = world(after(Deleter::Master));
    world.inventory.marks.insert(id(1), Mark { at: NOW - 5_000, wait: WAIT });
    let json = serde_json::to_value(world.decide()).expect("JSON");
    assert_eq!(
        json["steps"][2],
        serde_json::json!({"action": "delete", "time": 5, "package": "p0@1", "reason": "waited", "seconds": 5000})
    );
    assert_eq!(json["steps"][0]["action"], "mark");
}

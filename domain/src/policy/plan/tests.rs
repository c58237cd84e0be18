use super::*;
use crate::policy::follow::follow;
use proptest::prelude::*;

fn id(n: u8) -> PackageId {
    format!("p{}@{}", n / 4, n % 4).parse().expect("a package")
}

fn ready(time: i64) -> Source {
    Source::Ready { time, size: Size { bytes: 10, entries: 1 } }
}

fn link_to(n: u8) -> Source {
    Source::Link { to: id(n).version }
}

fn any_wanted() -> impl Strategy<Value = WantedSet> {
    proptest::collection::btree_map(0u8..24, any::<bool>(), 0..20).prop_map(|map| {
        map.into_iter().map(|(n, pin)| (id(n), [if pin { Reason::Pinned } else { Reason::Tag }].into())).collect()
    })
}

fn any_inventory() -> impl Strategy<Value = Inventory> {
    let there = prop_oneof![4 => (0i64..3).prop_map(Ok), 1 => (0u8..4).prop_map(Err)];
    proptest::collection::btree_map(0u8..24, there, 0..20).prop_map(|map| {
        let mut inventory = Inventory::default();
        for (n, there) in map {
            match there {
                Ok(time) => drop(inventory.packages.insert(id(n), time)),
                Err(to) => drop(inventory.links.insert(id(n), id(to).version.to_string())),
            }
        }
        inventory
    })
}

fn any_survey() -> impl Strategy<Value = BTreeMap<PackageId, Source>> {
    let source = prop_oneof![
        4 => (0i64..3).prop_map(ready),
        2 => (0u8..4).prop_map(link_to),
        1 => Just(Source::Held(Blocker::Incomplete)),
        1 => Just(Source::Held(Blocker::Missing)),
    ];
    proptest::collection::btree_map((0u8..24).prop_map(id), source, 0..24)
}

fn apply(plan: &Plan, inventory: &Inventory) -> Inventory {
    let mut after = inventory.clone();
    after.packages.extend(plan.steps.iter().map(|step| (step.package.clone(), step.time)));
    after.links.extend(plan.links.iter().map(|link| (link.package.clone(), link.to.to_string())));
    after
}

/// A plan the way the agent makes it, with the wanted set that it is for.
fn planned(wanted: &WantedSet, inventory: &Inventory, survey: &BTreeMap<PackageId, Source>) -> (Plan, WantedSet) {
    let look = |package: &PackageId| survey.get(package).cloned().unwrap_or(Source::Held(Blocker::Missing));
    let all = follow(wanted.clone(), &[], inventory, look);
    (plan(&all.wanted, inventory, &all.survey, vec![]), all.wanted)
}

/// Whether a version is a package, or a link that leads to one.
fn stands(package: &PackageId, inventory: &Inventory) -> bool {
    let mut package = package.clone();
    (0..=LONGEST_CHAIN).any(|_| {
        let there = inventory.packages.contains_key(&package);
        if let Some(to) = inventory.links.get(&package) {
            package.version = to.parse().expect("a version");
        }
        there
    })
}

#[test]
fn a_link_comes_after_what_a_link_of_the_target_leads_to() {
    let mut wanted = WantedSet::from([(id(0), [Reason::Tag].into())]);
    let version = |n| id(n).version;
    let inventory = Inventory {
        packages: [(id(1), 0)].into(),
        links: [(id(3), version(2).to_string())].into(),
        ..Inventory::default()
    };
    // The source cannot show the third, which on the target leads to the second.
    let survey = [(id(0), link_to(3)), (id(2), link_to(1))].into();
    let links = |wanted: &WantedSet| {
        let (plan, _) = planned(wanted, &inventory, &survey);
        plan.links.into_iter().map(|link| link.package).collect::<Vec<_>>()
    };
    assert_eq!(links(&wanted), [], "the target's word alone brings no second");
    wanted.insert(id(2), [Reason::Tag].into());
    assert_eq!(links(&wanted), [id(2), id(0)]);
}

proptest! {
    #[test]
    fn whatever_a_target_claims_only_links_of_the_source_make_anything_wanted(
        wanted in any_wanted(), inventory in any_inventory(), survey in any_survey(),
    ) {
        let (_, all) = planned(&wanted, &inventory, &survey);
        for (package, reasons) in all.iter().filter(|(package, _)| !wanted.contains_key(package)) {
            let here = Source::Link { to: package.version.clone() };
            let leads_here = |reason: &Reason| matches!(reason, Reason::Link { from } if survey.get(from) == Some(&here));
            prop_assert!(reasons.iter().any(leads_here), "{package}: {reasons:?}");
        }
    }

    #[test]
    fn applying_a_plan_leaves_nothing_to_do(wanted in any_wanted(), inventory in any_inventory(), survey in any_survey()) {
        let (first, _) = planned(&wanted, &inventory, &survey);
        let (second, _) = planned(&wanted, &apply(&first, &inventory), &survey);
        prop_assert!(second.steps.is_empty() && second.links.is_empty(), "{:?} {:?}", second.steps, second.links);
        prop_assert_eq!(second.held, first.held);
    }

    #[test]
    fn every_wanted_package_is_present_sent_linked_or_held_and_nothing_else_is_touched(
        wanted in any_wanted(), inventory in any_inventory(), survey in any_survey(),
    ) {
        let (plan, wanted) = planned(&wanted, &inventory, &survey);
        prop_assert_eq!(plan.present as usize + plan.steps.len() + plan.links.len() + plan.held.len(), wanted.len());
        prop_assert!(plan.steps.iter().all(|step| wanted.contains_key(&step.package)));
        prop_assert!(plan.links.iter().all(|link| wanted.contains_key(&link.package)));
        prop_assert!(plan.excess.iter().all(|package| !wanted.contains_key(package)));
    }

    #[test]
    fn a_complete_plan_leaves_all_that_is_wanted(wanted in any_wanted(), inventory in any_inventory(), survey in any_survey()) {
        let (plan, wanted) = planned(&wanted, &inventory, &survey);
        let after = apply(&plan, &inventory);
        prop_assert!(!plan.is_complete() || wanted.keys().all(|package| stands(package, &after)));
    }

    #[test]
    fn every_link_comes_after_what_it_addresses(wanted in any_wanted(), inventory in any_inventory(), survey in any_survey()) {
        let (plan, _) = planned(&wanted, &inventory, &survey);
        let mut now = apply(&Plan { links: vec![], ..plan.clone() }, &inventory);
        for link in &plan.links {
            prop_assert!(stands(&link.addressee(), &now), "{} before {}", link.package, link.to);
            now.links.insert(link.package.clone(), link.to.to_string());
        }
    }

    #[test]
    fn pinned_packages_go_first(wanted in any_wanted(), survey in any_survey()) {
        let (plan, _) = planned(&wanted, &Inventory::default(), &survey);
        let pins: Vec<bool> = plan.steps.iter().map(|step| step.reasons.contains(&Reason::Pinned)).collect();
        prop_assert!(pins.is_sorted_by(|a, b| a >= b));
    }
}

#[test]
fn a_link_is_put_when_it_is_gone_or_leads_elsewhere_and_left_alone_otherwise() {
    let wanted = WantedSet::from([(id(0), [Reason::Pinned].into())]);
    let survey = BTreeMap::from([(id(0), link_to(1)), (id(1), ready(5))]);
    for (there, put) in [(None, true), (Some(2), true), (Some(1), false)] {
        let inventory = Inventory {
            packages: [(id(1), 5), (id(2), 5)].into(),
            links: there.map(|n| (id(0), id(n).version.to_string())).into_iter().collect(),
            ..Inventory::default()
        };
        let (plan, _) = planned(&wanted, &inventory, &survey);
        assert_eq!((plan.links.len() == 1, plan.steps.len()), (put, 0), "{there:?}");
    }
}

#[test]
fn another_descpkg_time_in_either_direction_replaces() {
    let wanted = WantedSet::from([(id(0), [Reason::Pinned].into())]);
    for (there, action) in [(4, Some(Action::Replace)), (5, None), (6, Some(Action::Replace))] {
        let inventory = Inventory { packages: [(id(0), there)].into(), ..Inventory::default() };
        let plan = plan(&wanted, &inventory, &[(id(0), ready(5))].into(), vec![]);
        assert_eq!(plan.steps.first().map(|step| step.action), action);
    }
}

#[test]
fn a_held_package_that_the_target_has_is_not_missed() {
    let wanted = WantedSet::from([(id(0), [Reason::Pinned].into())]);
    let inventory = Inventory { packages: [(id(0), 4)].into(), ..Inventory::default() };
    let plan = plan(&wanted, &inventory, &[(id(0), Source::Held(Blocker::Missing))].into(), vec![]);
    assert!(plan.is_complete() && plan.present == 1);
}

#[test]
fn only_the_owner_replaces_what_is_there_and_whoever_else_reports_it() {
    use crate::policy::ownership::Bar;
    let [there, absent] = ["p@1", "p@2"].map(|p| p.parse::<PackageId>().expect("a package"));
    let [elsewhere, new] = ["q@current", "q@next"].map(|p| p.parse::<PackageId>().expect("a package"));
    let all = [&there, &absent, &elsewhere, &new, &"q@1".parse().expect("a package")].map(|p| (p.clone(), ready(8)));
    let mut survey: BTreeMap<PackageId, Source> = all.into();
    survey.extend([&elsewhere, &new].map(|link| (link.clone(), Source::Link { to: "1".parse().expect("a version") })));
    let wanted: WantedSet = survey.keys().map(|package| (package.clone(), [Reason::Tag].into())).collect();
    let inventory = Inventory {
        packages: [(there.clone(), 7)].into(),
        links: [(elsewhere.clone(), "0".to_owned())].into(),
        ..Inventory::default()
    };
    let mut plan = plan(&wanted, &inventory, &survey, Vec::new());
    plan.leave_to_owner(&Bar::Unsure { why: "unknown".into() });
    assert_eq!((plan.steps.len(), plan.links.len(), plan.held.len()), (3, 2, 0), "the archive may be ours");
    let target = "perth".parse().expect("a name");
    plan.bar(Bar::Other { home: "ab".into(), owner: "oslo".into(), target, is_ours: false });
    assert!(plan.steps.iter().all(|step| step.action == Action::Send) && plan.steps.len() == 2, "{:?}", plan.steps);
    assert_eq!(plan.links.iter().map(|link| &link.package).collect::<Vec<_>>(), [&new]);
    let held: BTreeMap<&PackageId, String> =
        plan.held.iter().map(|held| (&held.package, held.hold.to_string())).collect();
    for package in [&there, &elsewhere] {
        let said = &held[package];
        assert!(said.starts_with("conflict: ") && said.contains("target oslo") && said.contains("blat adopt perth"));
    }
    assert_eq!(held.len(), 2);
    assert!(plan.upkeep.bar.is_some() && !plan.is_complete());
}

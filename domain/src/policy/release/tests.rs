//! What is wanted, and what hinders an answer.

use super::*;
use crate::policy::retention::Distrust;

fn release(id: i64, name: &str, state: ReleaseState, packages: &[&str]) -> Release {
    let packages = packages.iter().map(|p| p.parse().expect("a package")).collect();
    Release { id, name: name.into(), state, s3sync: false, packages }
}

/// By a target that knows no release yet.
fn resolve_anew(catalog: &Catalog, selection: &Selection) -> Resolution {
    resolve(catalog, selection, &KnownReleases::default())
}

fn catalog() -> Catalog {
    let perth = vec![
        release(1, "Perth 7.0", ReleaseState::Closed, &["old@1"]),
        release(2, "Perth 7.1", ReleaseState::Open, &["core@2", "tools@1"]),
        release(3, "Perth 7.2", ReleaseState::Restricted, &["core@3", "tools@1"]),
    ];
    let oslo = vec![release(4, "Oslo 1", ReleaseState::Open, &["core@1"])];
    Catalog {
        projects: vec![
            Project { name: "Perth Metro".into(), releases: perth },
            Project { name: "Oslo".into(), releases: oslo },
        ],
        ..Catalog::default()
    }
}

fn wanted(selection: &Selection) -> Vec<String> {
    resolve_anew(&catalog(), selection).wanted.keys().map(PackageId::to_string).collect()
}

#[test]
fn a_project_means_its_releases_that_are_not_closed() {
    let selection = Selection { projects: vec!["Perth Metro".into()], ..Selection::default() };
    assert_eq!(wanted(&selection), ["core@2", "core@3", "tools@1"]);
}

#[test]
fn releases_are_named_by_id_or_name_and_joined() {
    let releases = vec![ReleaseKey::Id(1), ReleaseKey::Name("Oslo 1".into())];
    assert_eq!(wanted(&Selection { releases, ..Selection::default() }), ["core@1", "old@1"]);
}

/// Release 2024, which is called something else, and one with a number of its own that is called `2024`.
fn years() -> Catalog {
    let named = [(7, "2024", "core@7"), (8, "02024", "core@8"), (9, "Zürich", "core@9")];
    let releases = named.map(|(id, name, package)| release(id, name, ReleaseState::Open, &[package])).to_vec();
    Catalog { projects: vec![Project { name: "P".into(), releases }], ..Catalog::default() }
}

#[test]
fn a_release_whose_name_is_a_number_is_selected_by_its_name_and_by_its_id() {
    let by = |key: ReleaseKey| {
        let selection = Selection { releases: vec![key], ..Selection::default() };
        let resolution = resolve_anew(&years(), &selection);
        assert!(resolution.odd.is_empty(), "{:?}", resolution.odd);
        (resolution.wanted.keys().map(ToString::to_string).collect::<Vec<_>>(), resolution.unknown)
    };
    let found = |package: &str| (vec![package.to_owned()], Vec::new());
    assert_eq!(by(ReleaseKey::Id(2024)), found("core@7"));
    assert_eq!(by(ReleaseKey::Name("2024".into())), found("core@7"));
    assert_eq!(by(ReleaseKey::Id(7)), found("core@7"));
    assert_eq!(by(ReleaseKey::Name("02024".into())), found("core@8"));
    let unknown = |text: &str| (Vec::new(), vec![text.to_owned()]);
    assert_eq!(by(ReleaseKey::OnlyId(2024)), unknown("Release Manager knows no release 2024; did you mean \"02024\"?"));
    assert_eq!(by(ReleaseKey::Id(99)), unknown("Release Manager knows no release 99"));
}

#[test]
fn digits_that_mean_two_releases_want_both_and_delete_nothing_until_the_config_says_which() {
    let mut catalog = years();
    catalog.projects[0].releases.push(release(2024, "Perth", ReleaseState::Open, &["core@2024"]));
    let by = |key: ReleaseKey| resolve_anew(&catalog, &Selection { releases: vec![key], ..Selection::default() });
    let wanted = |resolution: &Resolution| resolution.wanted.keys().map(ToString::to_string).collect::<Vec<_>>();
    let both = by(ReleaseKey::Id(2024));
    assert_eq!(wanted(&both), ["core@2024", "core@7"]);
    assert_eq!(both.odd.len(), 1);
    assert_eq!(both.odd[0].oddity, Oddity::Contradiction);
    assert!(both.odd[0].text.ends_with("write {id: 2024} or {name: 2024} in its place"), "{}", both.odd[0].text);
    for (key, package) in [(ReleaseKey::OnlyId(2024), "core@2024"), (ReleaseKey::Name("2024".into()), "core@7")] {
        let one = by(key);
        assert!(wanted(&one) == [package] && one.odd.is_empty(), "{one:?}");
    }
}

#[test]
fn a_bucket_takes_only_releases_with_s3sync_set_however_they_are_selected() {
    let mut catalog = catalog();
    catalog.projects[0].releases[1].s3sync = true;
    let selection = Selection {
        projects: vec!["Perth Metro".into()],
        releases: vec![ReleaseKey::Id(1), ReleaseKey::Id(4)],
        pinned: ["core@9".parse().expect("a package")].into(),
        only_s3sync: true,
        ..Selection::default()
    };
    let resolution = resolve_anew(&catalog, &selection);
    let wanted: Vec<String> = resolution.wanted.keys().map(PackageId::to_string).collect();
    assert_eq!(wanted, ["core@2", "core@9", "tools@1"]);
    assert_eq!(resolution.unknown, Vec::<String>::new(), "a release that does not count is known all the same");
    catalog.projects[0].releases[1].s3sync = false;
    assert!(resolve_anew(&catalog, &selection).brings_nothing, "a flag taken away everywhere deletes nothing");
}

#[test]
fn globs_narrow_releases_but_not_pins() {
    let filter = NameFilter::new(vec!["*o*".into()], vec!["core".into()]).expect("globs");
    let pinned = ["core@9".parse().expect("a package")].into();
    let projects = vec!["Perth Metro".into()];
    let selection = Selection { projects, filter, pinned, ..Selection::default() };
    assert_eq!(wanted(&selection), ["core@9", "tools@1"]);
    let kept_out = resolve_anew(&catalog(), &selection).kept_out;
    assert_eq!(kept_out.keys().map(PackageId::to_string).collect::<Vec<_>>(), ["core@2", "core@3"]);
}

#[test]
fn what_release_manager_does_not_know_is_said_with_a_suggestion() {
    let selection = Selection {
        releases: vec![ReleaseKey::Name("Perth 7,1".into())],
        projects: vec!["Berlin".into()],
        ..Selection::default()
    };
    let unknown = resolve_anew(&catalog(), &selection).unknown;
    assert_eq!(unknown[0], "Release Manager knows no release \"Perth 7,1\"; did you mean \"Perth 7.1\"?");
    assert_eq!(unknown[1], "Release Manager knows no project \"Berlin\"");
}

#[test]
fn every_wanted_package_says_why() {
    let selection = Selection { projects: vec!["Perth Metro".into()], ..Selection::default() };
    let resolution = resolve_anew(&catalog(), &selection);
    let tools = &resolution.wanted[&"tools@1".parse::<PackageId>().expect("a package")];
    assert_eq!(
        tools.iter().map(Reason::to_string).collect::<Vec<_>>(),
        ["release Perth 7.1 (2)", "release Perth 7.2 (3)"]
    );
}

#[test]
fn pins_do_not_hide_that_releases_bring_nothing() {
    let pinned: BTreeSet<PackageId> = ["core@9".parse().expect("a package")].into();
    let projects = vec!["Oslo".to_owned()];
    let selection = Selection { projects, pinned, ..Selection::default() };
    let pins_only = Selection { projects: vec![], ..selection.clone() };
    let mut emptied = catalog();
    emptied.projects[1].releases[0].packages.clear();
    assert!(!resolve_anew(&catalog(), &selection).brings_nothing);
    assert!(resolve_anew(&emptied, &selection).brings_nothing);
    assert!(!resolve_anew(&emptied, &pins_only).brings_nothing, "nothing else is asked for");
}

#[test]
fn a_package_list_is_narrowed_as_releases_are() {
    let listed = ["core@1", "tools@1"].map(|p| p.parse().expect("a package")).into();
    let filter = NameFilter::new(vec![], vec!["tools".into()]).expect("globs");
    let selection = Selection { filter, ..Selection::default() };
    let wanted = resolve_anew(&Catalog { listed, ..Catalog::default() }, &selection).wanted;
    assert_eq!(wanted, WantedSet::from([("core@1".parse().expect("a package"), [Reason::Listed].into())]));
}

#[test]
fn nothing_is_deleted_by_an_old_unsure_or_empty_wanted_set() {
    let sure = resolve_anew(&catalog(), &Selection { projects: vec!["Oslo".into()], ..Selection::default() });
    assert_eq!(Distrust::of(&sure, true, false), None);
    assert_eq!(Distrust::of(&sure, false, true), Some(Distrust::Incomplete));
    let odd = |oddity| vec![OddRow { text: "release x".into(), about: About::Anything, oddity }];
    let emptied = Resolution { emptied: vec!["release 1".into()], ..sure.clone() };
    assert_eq!(Distrust::of(&emptied, true, false), Some(Distrust::Emptied));
    assert_eq!(Distrust::of(&emptied, true, true), None, "an operator confirmed it");
    assert_eq!(Distrust::of(&emptied, false, true), Some(Distrust::Incomplete));
    let vanished = Resolution { vanished: vec!["release 2".into()], ..emptied };
    assert_eq!(Distrust::of(&vanished, true, false), Some(Distrust::Vanished));
    assert_eq!(vanished.because(&Distrust::Vanished), ["release 2", "release 1"]);
    assert_eq!(Distrust::of(&vanished, true, true), None, "an operator confirmed it");
    for (unsure, distrust) in [
        (Resolution { snapshot: Some(Timestamp::UNIX_EPOCH), ..sure.clone() }, Distrust::Snapshot),
        (Resolution { odd: odd(Oddity::Invalid), ..sure.clone() }, Distrust::Rejected),
        (Resolution { odd: odd(Oddity::Contradiction), ..sure.clone() }, Distrust::Contradicting),
        (Resolution { brings_nothing: true, ..sure.clone() }, Distrust::NothingWanted),
    ] {
        assert_eq!(Distrust::of(&unsure, true, true), Some(distrust));
    }
}

/// The catalog with this row beside the others, as it is for a target that selects `Perth Metro`; whether it hinders that.
fn hinders_perth(about: About, known: &KnownReleases) -> bool {
    let odd = Catalog { rejected: vec![OddRow::invalid(about, "odd".into())], ..catalog() };
    let perth = Selection { projects: vec!["Perth Metro".into()], ..Selection::default() };
    !resolve(&odd, &perth, known).odd.is_empty()
}

#[test]
fn an_odd_row_hinders_those_who_select_what_it_is_about_and_nobody_else() {
    let nothing = KnownReleases::default();
    let perth = Selection { projects: vec!["Perth Metro".into()], ..Selection::default() };
    let resolution = resolve_anew(&catalog(), &perth);
    let known = nothing.after(&catalog(), &perth, &resolution, false);
    let named = |id, name: &str, project: &str| About::Named {
        id,
        names: Some(name.to_owned()).into_iter().filter(|name| !name.is_empty()).collect(),
        projects: Some(project.to_owned()).into_iter().filter(|name| !name.is_empty()).collect(),
    };
    for (about, hinders) in [
        (About::Anything, true),
        (About::PackagesOf(2), true),
        (About::PackagesOf(1), false),
        (About::PackagesOf(4), false),
        (named(None, "", "Perth Metro"), true),
        (named(Some(9), "Oslo 2", "Oslo"), false),
        (named(None, "", "Oslo"), false),
        (named(Some(9), "Nowhere 1", ""), false),
    ] {
        assert_eq!(hinders_perth(about.clone(), &known), hinders, "{about:?}");
    }
    // Whose project nobody can read: it hinders those who had it before.
    assert!(hinders_perth(named(Some(3), "", ""), &known) && !hinders_perth(named(Some(3), "", ""), &nothing));
    assert!(hinders_perth(named(None, "Perth 7.2", ""), &known));
    let by_key = Selection { releases: vec![ReleaseKey::Name("X".into()), ReleaseKey::Id(2)], ..Selection::default() };
    let odd = OddRow::invalid(named(None, "X", ""), "odd".into());
    assert!(odd.hinders(&catalog(), &by_key, &nothing));
}

#[test]
fn rows_of_one_release_are_united_and_contradictions_keep_what_any_of_them_wants() {
    let twice = |state| Catalog {
        projects: vec![
            Project { name: "A".into(), releases: vec![release(1, "R", ReleaseState::Open, &["a@1"])] },
            Project { name: "B".into(), releases: vec![release(1, "R", state, &["b@1"]), release(2, "S", state, &[])] },
        ],
        ..Catalog::default()
    };
    let wants = |catalog: &Catalog, project: &str| -> Vec<String> {
        let selection = Selection { projects: vec![project.into()], ..Selection::default() };
        resolve_anew(catalog, &selection).wanted.keys().map(PackageId::to_string).collect()
    };
    let agreeing = twice(ReleaseState::Open).united();
    assert_eq!(
        (wants(&agreeing, "A"), wants(&agreeing, "B")),
        (vec!["a@1".into(), "b@1".into()], wants(&agreeing, "A"))
    );
    assert_eq!(agreeing.rejected, []);
    assert_eq!(agreeing.clone().united(), agreeing, "once is enough");

    let contradicting = twice(ReleaseState::Closed).united();
    assert_eq!(wants(&contradicting, "A").len(), 2, "what any row wants is wanted");
    let [row] = &contradicting.rejected[..] else { panic!("{:?}", contradicting.rejected) };
    assert_eq!(row.text, "release 1: its rows differ in state (closed, open); make them agree");
    for (project, hinders) in [("A", true), ("B", true), ("C", false)] {
        let selection = Selection { projects: vec![project.into()], ..Selection::default() };
        let distrust = Distrust::of(&resolve_anew(&contradicting, &selection), true, true);
        assert_eq!(distrust == Some(Distrust::Contradicting), hinders, "{project}");
    }
    // The same row twice is one row.
    let mut doubled = catalog();
    let again = doubled.projects[1].releases[0].clone();
    doubled.projects[1].releases.push(again);
    assert_eq!(doubled.united(), catalog());
}

#[test]
fn a_known_release_that_is_empty_now_is_noticed_until_that_is_confirmed() {
    let perth = Selection { projects: vec!["Perth Metro".into()], ..Selection::default() };
    let full = resolve_anew(&catalog(), &perth);
    let known = KnownReleases::default().after(&catalog(), &perth, &full, false);
    let mut emptied = catalog();
    emptied.projects[0].releases[1].packages.clear();
    assert_eq!(resolve_anew(&emptied, &perth).emptied, Vec::<String>::new(), "nobody knows that it had any");
    let now = resolve(&emptied, &perth, &known);
    assert!(now.emptied[0].contains("Perth 7.1 (2)") && now.emptied[0].contains("--allow-delete"), "{:?}", now.emptied);
    let still = known.after(&emptied, &perth, &now, false);
    assert_eq!(resolve(&emptied, &perth, &still).emptied, now.emptied, "as often as it is looked at");
    let confirmed = known.after(&emptied, &perth, &now, true);
    assert_eq!(resolve(&emptied, &perth, &confirmed).emptied, Vec::<String>::new());
    let mut closed = emptied.clone();
    closed.projects[0].releases[1].state = ReleaseState::Closed;
    assert_eq!(
        resolve(&closed, &perth, &known).emptied,
        Vec::<String>::new(),
        "a closed release brings nothing anyhow"
    );
}

/// What is missing in a catalog that `change` made of the usual one, for `selection`, which knew that one as it was.
fn missing(selection: &Selection, change: impl FnOnce(&mut Catalog), now: &Selection) -> Vec<String> {
    let full = resolve_anew(&catalog(), selection);
    let known = KnownReleases::default().after(&catalog(), selection, &full, false);
    let kept = serde_json::to_string(&known).expect("JSON");
    let known: KnownReleases = serde_json::from_str(&kept).expect("as it was kept");
    let mut changed = catalog();
    change(&mut changed);
    let resolution = resolve(&changed, now, &known);
    let still = known.after(&changed, now, &resolution, false);
    assert_eq!(resolve(&changed, now, &still).vanished, resolution.vanished, "as often as it is looked at");
    let confirmed = known.after(&changed, now, &resolution, true);
    assert_eq!(resolve(&changed, now, &confirmed).vanished, Vec::<String>::new());
    resolution.vanished
}

#[test]
fn a_selected_release_whose_row_is_gone_or_moved_is_noticed_until_that_is_confirmed() {
    let perth = Selection { projects: vec!["Perth Metro".into()], ..Selection::default() };
    let [gone] = &missing(&perth, |catalog| drop(catalog.projects[0].releases.remove(1)), &perth)[..] else {
        panic!("one is gone")
    };
    assert!(gone.contains("Perth 7.1 (2)") && gone.contains("no row") && gone.contains("--allow-delete"), "{gone}");
    let move_away = |catalog: &mut Catalog| {
        let moved = catalog.projects[0].releases.remove(2);
        catalog.projects[1].releases.push(moved);
    };
    let [moved] = &missing(&perth, move_away, &perth)[..] else { panic!("one has moved") };
    assert!(moved.contains("Perth 7.2 (3)") && moved.contains("project \"Oslo\" now"), "{moved}");
    let by_key = Selection { releases: vec![ReleaseKey::Id(3), ReleaseKey::Name("Oslo 1".into())], ..perth.clone() };
    let drop_third = |catalog: &mut Catalog| drop(catalog.projects[0].releases.remove(2));
    assert_eq!(missing(&by_key, drop_third, &by_key).len(), 1);
    assert_eq!(missing(&by_key, move_away, &by_key), Vec::<String>::new(), "its number selects it wherever it is");
}

#[test]
fn what_the_config_no_longer_selects_or_release_manager_closed_is_not_missing() {
    let perth = Selection { projects: vec!["Perth Metro".into()], ..Selection::default() };
    let nothing = Vec::<String>::new();
    let close = |catalog: &mut Catalog| catalog.projects[0].releases[1].state = ReleaseState::Closed;
    assert_eq!(missing(&perth, close, &perth), nothing);
    let both = Selection { projects: vec!["Perth Metro".into(), "Oslo".into()], ..Selection::default() };
    assert_eq!(missing(&both, |_| {}, &perth), nothing);
    let drop_oslo = |catalog: &mut Catalog| catalog.projects[1].releases.clear();
    assert_eq!(missing(&both, drop_oslo, &both).len(), 1);
    let by_key = Selection { releases: vec![ReleaseKey::Id(4)], ..perth.clone() };
    assert_eq!(missing(&by_key, |_| {}, &perth), nothing);
    let closed_elsewhere = |catalog: &mut Catalog| {
        let mut moved = catalog.projects[1].releases.remove(0);
        moved.state = ReleaseState::Closed;
        catalog.projects[0].releases.push(moved);
    };
    assert_eq!(missing(&both, closed_elsewhere, &perth), nothing, "its number is known as closed");
    let odd = |catalog: &mut Catalog| {
        drop_oslo(catalog);
        let about = About::Named { id: Some(4), names: vec!["Oslo 1".into()], projects: vec!["Oslo".into()] };
        catalog.rejected.push(OddRow::invalid(about, "odd".into()));
    };
    assert_eq!(missing(&both, odd, &perth), nothing, "it is there, and its row is reported as odd");
    let flagged = Selection { only_s3sync: true, ..both };
    assert_eq!(missing(&perth, |_| {}, &flagged), nothing, "a flag that Release Manager has taken away");
}

#[test]
fn a_release_that_is_gone_altogether_is_missing_also_where_the_config_was_edited() {
    let perth = Selection { projects: vec!["Perth Metro".into()], ..Selection::default() };
    let rename = |catalog: &mut Catalog| {
        catalog.projects[0].name = "Perth".into();
        catalog.projects[0].releases.remove(1);
    };
    let renamed = Selection { projects: vec!["Perth".into()], ..Selection::default() };
    let [lost] = &missing(&perth, rename, &renamed)[..] else { panic!("one was lost on the way") };
    assert!(
        lost.contains("Perth 7.1 (2)") && lost.contains("no row of it") && lost.contains("--allow-delete"),
        "{lost}"
    );
    let drop_oslo = |catalog: &mut Catalog| catalog.projects[1].releases.clear();
    let both = Selection { projects: vec!["Perth Metro".into(), "Oslo".into()], ..Selection::default() };
    assert_eq!(missing(&both, drop_oslo, &perth).len(), 1, "deselected and gone in one");
    let by_key = Selection { releases: vec![ReleaseKey::Id(4)], ..perth.clone() };
    assert_eq!(missing(&by_key, drop_oslo, &perth).len(), 1);
    // Deselected first, and known to be: it is forgotten before it goes.
    let known = KnownReleases::default().after(&catalog(), &both, &resolve_anew(&catalog(), &both), false);
    let known = known.after(&catalog(), &perth, &resolve(&catalog(), &perth, &known), false);
    let mut without = catalog();
    drop_oslo(&mut without);
    assert_eq!(resolve(&without, &perth, &known).vanished, Vec::<String>::new());
}

#[test]
fn known_releases_of_the_first_form_count_as_selected() {
    let known: KnownReleases = serde_json::from_str(r#"{"2": "Perth 7.1", "9": "Perth 6"}"#).expect("known releases");
    let perth = Selection { projects: vec!["Perth Metro".into()], ..Selection::default() };
    let resolution = resolve(&catalog(), &perth, &known);
    assert_eq!(resolution.vanished.len(), 1, "{:?}", resolution.vanished);
    assert!(resolution.vanished[0].starts_with("release Perth 6 (9) "), "{:?}", resolution.vanished);
    let known = known.after(&catalog(), &perth, &resolution, true);
    assert_eq!(resolve(&catalog(), &perth, &known).vanished, Vec::<String>::new());
}

#[test]
fn odd_rows_of_the_first_form_of_a_snapshot_are_read() {
    let text = r#"{"projects": [], "listed": [], "rejected": ["release R: package name \"..\" is not valid"]}"#;
    let catalog: Catalog = serde_json::from_str(text).expect("a catalog");
    assert_eq!((&catalog.rejected[0].about, catalog.rejected[0].oddity), (&About::Anything, Oddity::Invalid));
    let again: Catalog = serde_json::from_str(&serde_json::to_string(&catalog).expect("JSON")).expect("a catalog");
    assert_eq!(again, catalog);
}

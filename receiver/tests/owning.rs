//! Whose archive it is: as the scripts have it, and only its owner lists, marks and deletes.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use blat_domain::archive::package_list::Purge;
use blat_domain::archive::record::Claim;
use blat_domain::protocol::frames::{Class, Lane, Leaving, MOST_DATA, Request, Retirement, Rule};
use blat_domain::util::identity::Identity;
use sha2::{Digest as _, Sha256};
use support::package::{How, Node, Package};
use support::{Agent, Archive, id};

const ID: &str = "0123456789abcdef0123456789abcdef";
const PERTH: &str = "00000000000000000000000000000001 perth";
const OSLO: &str = "00000000000000000000000000000002 oslo";

/// What an agent hears of the record.
fn claim(agent: &mut Agent, how: Claim, record: &str) -> String {
    let lines = agent.ask(Lane::CONTROL, &Request::Claim { how, record }).expect("an answer");
    let place = lines.last().expect("a place");
    assert!(place.starts_with("place ") && place.contains(':'), "{place}");
    lines.iter().find_map(|line| line.strip_prefix("archive ")).unwrap_or("none").trim_end().to_owned()
}

fn retire(agent: &mut Agent, how: Retirement) -> Result<Vec<String>, (Class, String)> {
    agent.ask(Lane::CONTROL, &Request::Retire { how, packages: vec![Leaving::new(id("p@1"), None)] })
}

fn store(agent: &mut Agent, list: &str) -> Result<Vec<String>, (Class, String)> {
    let digest = Sha256::digest(list).into();
    agent.send(Lane::CONTROL, &Request::Store { bytes: list.len() as u64, digest, purge: Purge::Allowed });
    list.as_bytes().chunks(MOST_DATA).for_each(|data| agent.send(Lane::CONTROL, &Request::Data(data)));
    agent.lines(Lane::CONTROL)
}

#[test]
fn a_record_is_made_adopted_and_taken_away_as_the_scripts_do_it() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    let record = |owner: &str| format!("{ID}\n{owner}\n");
    assert_eq!(claim(&mut agent, Claim::Look, ""), "none");
    assert!(!archive.house("").exists(), "to look changes nothing");
    assert_eq!(claim(&mut agent, Claim::First, &record(PERTH)), format!("{ID} {PERTH}"));
    assert_eq!(fs::read_to_string(archive.house("archive")).expect("a record"), record(PERTH));
    assert_eq!(claim(&mut agent, Claim::First, &record(OSLO)), format!("{ID} {PERTH}"), "who comes second reads it");
    let title = archive.script("get_plist", &["--title"], "");
    let ours = agent.ask(Lane::CONTROL, &Request::Claim { how: Claim::Look, record: "" }).expect("an answer");
    assert_eq!(ours, title, "receiver and scripts say the same");
    let other = format!("{}\n{OSLO}\n", ID.replace('0', "f"));
    assert_eq!(claim(&mut agent, Claim::Withdraw, &other), format!("{ID} {PERTH}"), "another record stays");
    let adopted = other.trim_end().replace('\n', " ");
    fs::create_dir(archive.house("aged")).expect("marks");
    fs::write(archive.house("aged/p@1"), "1\n1\n").expect("a mark");
    assert_eq!(claim(&mut agent, Claim::Adopt, &other), adopted, "the record is the one that the adoption brings");
    assert_eq!(fs::read_to_string(archive.house("visit")).expect("a visit"), other, "nobody has visited it since");
    assert!(!archive.house("aged").exists(), "what the former owner marked waits anew");
    assert_eq!(claim(&mut agent, Claim::Withdraw, &record(OSLO)), adopted, "another record stays");
    assert_eq!(claim(&mut agent, Claim::Withdraw, &other), "none");
    assert!(!archive.house("visit").exists(), "what the adoption left goes as well");
    for none in ["", ID, "x y z", "0123456789abcdef0123456789abcdef ../x perth"] {
        let failure = agent.ask(Lane::CONTROL, &Request::Claim { how: Claim::First, record: none });
        assert!(failure.is_err_and(|(class, _)| class == Class::Refused), "{none}");
    }
    for strange in ["", "perth", "\u{1b}[2J", &"x".repeat(100_000)] {
        fs::write(archive.house("archive"), strange).expect("a record");
        let told = claim(&mut agent, Claim::First, &record(PERTH));
        assert!(told.len() <= 300 && !told.contains('\u{1b}') && told != format!("{ID} {PERTH}"), "{told}");
        assert_eq!(fs::read_to_string(archive.house("archive")).expect("a record"), strange, "it is not overwritten");
    }
}

#[test]
fn a_visit_is_noted_beside_the_record_by_its_owner_alone() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    let visit = |owner: &str| format!("{}\n{owner}\n", ID.replace('0', "e"));
    claim(&mut agent, Claim::Visit, &visit(PERTH));
    assert!(!archive.house("visit").exists(), "nobody owns it yet");
    claim(&mut agent, Claim::First, &format!("{ID}\n{PERTH}\n"));
    assert_eq!(claim(&mut agent, Claim::Visit, &visit(PERTH)), format!("{ID} {PERTH}"), "the record stays");
    claim(&mut agent, Claim::Visit, &visit(OSLO));
    assert_eq!(fs::read_to_string(archive.house("visit")).expect("a visit"), visit(PERTH));
    let ours = agent.ask(Lane::CONTROL, &Request::Claim { how: Claim::Look, record: "" }).expect("an answer");
    assert!(ours.contains(&format!("visit {}", visit(PERTH).replace('\n', " "))), "{ours:?}");
    assert_eq!(ours, archive.script("get_plist", &["--title"], ""), "receiver and scripts say the same");
    fs::remove_file(archive.house("visit")).expect("an own file");
    symlink("archive", archive.house("visit")).expect("a link");
    let told = agent.ask(Lane::CONTROL, &Request::Claim { how: Claim::Look, record: "" }).expect("an answer");
    assert!(told.iter().any(|line| line == "visit ? it is no regular file"), "{told:?}");
    claim(&mut agent, Claim::Visit, &visit(PERTH));
    assert!(archive.house("visit").symlink_metadata().expect("a visit").is_file(), "it takes the link's place");
}

/// Another directory may be in the archive's place by then: an unmounted disk, or one that somebody put there.
#[test]
fn to_an_archive_without_a_record_nothing_is_brought_for_an_owner_and_nothing_is_replaced() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    let deliver = |agent: &mut Agent, text: &str, how: &How| {
        Package::new("p", "1")
            .file("a", text)
            .deliver(agent, how)
            .split_whitespace()
            .take(4)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(deliver(&mut agent, "one", &How::default()), "published p 1", "who names no owner is asked for none");
    agent.send(Lane::BULK, &Request::Own { owner: PERTH });
    let other = How { rule: Rule::Replace, number: 2, ..How::default() };
    for text in ["one", "two"] {
        assert_eq!(deliver(&mut agent, text, &other), "failed p 1 unowned");
    }
    assert_eq!(
        Package::new("q", "1").deliver(&mut agent, &How { number: 3, ..How::default() }).split(' ').nth(3),
        Some("unowned")
    );
    assert!(!archive.path.join("q").exists());
    assert_eq!(fs::read_to_string(archive.path.join("p/1/a")).expect("a file"), "one");
    let link = Request::Link { links: vec![(id("p@2"), "1".parse().expect("a version"))] };
    agent.send(Lane::BULK, &link);
    let lines = agent.lines(Lane::BULK).expect("an answer");
    assert!(lines[0].starts_with("failed p 2 unowned "), "{lines:?}");
    claim(&mut agent, Claim::First, &format!("{ID}\n{PERTH}\n"));
    assert_eq!(deliver(&mut agent, "one", &How { number: 4, ..How::default() }), "already p 1");
}

/// It may be an archive of the same account that somebody put in the place of the one that the agent saw.
#[test]
fn to_an_archive_with_the_record_of_another_nothing_is_brought_for_an_owner() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    claim(&mut agent, Claim::First, &format!("{ID}\n{PERTH}\n"));
    agent.send(Lane::BULK, &Request::Own { owner: PERTH });
    assert_eq!(Package::new("p", "1").deliver(&mut agent, &How::default()), "published p 1");
    let another = format!("{}\n{}\n", ID.replace(&ID[..1], "0"), PERTH.replace("perth", "oslo"));
    fs::write(archive.house("archive"), &another).expect("a record");
    let line = Package::new("q", "1").deliver(&mut agent, &How { number: 2, ..How::default() });
    assert!(line.starts_with("failed q 1 unowned the archive has the record of another owner by now ("), "{line}");
    assert!(!archive.path.join("q").exists());
    agent.send(Lane::BULK, &Request::Own { owner: "" });
    let line = Package::new("r", "1").deliver(&mut agent, &How { number: 3, ..How::default() });
    assert_eq!(line, "published r 1", "nor does who says so later on the same lane name an owner");
    let line = Package::new("q", "1").deliver(&mut Agent::start(&archive.path), &How::default());
    assert_eq!(line, "published q 1", "who knows that it is another one's may still send");
}

/// A torn copy of the archive, which somebody put in its place.
#[test]
fn to_an_archive_whose_record_names_nobody_nothing_is_brought_for_an_owner() {
    for torn in ["", "0123", ID] {
        let archive = Archive::new();
        let mut agent = Agent::start(&archive.path);
        claim(&mut agent, Claim::First, &format!("{ID}\n{PERTH}\n"));
        fs::write(archive.house("archive"), torn).expect("a record");
        agent.send(Lane::BULK, &Request::Own { owner: PERTH });
        let line = Package::new("p", "1").deliver(&mut agent, &How::default());
        assert!(line.starts_with("failed p 1 unowned the archive's record "), "{torn:?}: {line}");
        assert!(!archive.path.join("p").exists());
    }
}

/// Whoever names a whole record saw it, and another directory is in the archive's place. Who names an owner alone knows that it is another one's.
#[test]
fn links_come_under_the_record_that_was_seen_alone() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    let theirs = format!("{}\n{OSLO}\n", ID.replace('0', "f"));
    claim(&mut agent, Claim::First, &theirs);
    assert_eq!(Package::new("p", "1").deliver(&mut agent, &How::default()), "published p 1");
    let mut link = |owner: &str| {
        agent.send(Lane::BULK, &Request::Own { owner });
        agent.send(Lane::BULK, &Request::Link { links: vec![(id("p@2"), "1".parse().expect("a version"))] });
        agent.lines(Lane::BULK).expect("an answer").remove(0)
    };
    let line = link(&format!("{ID} {PERTH}"));
    assert!(line.starts_with("failed p 2 unowned the archive has the record of another owner by now ("), "{line}");
    assert!(!archive.path.join("p/2").exists());
    assert_eq!(link(PERTH), "linked p 2");
}

#[test]
fn a_first_claim_drops_the_marks_of_whoever_had_it_before() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    fs::create_dir_all(archive.house("aged")).expect("marks");
    fs::write(archive.house("aged/p@1"), "1\n1\n").expect("a mark");
    claim(&mut agent, Claim::First, &format!("{ID}\n{PERTH}\n"));
    assert!(!archive.house("aged").exists());
}

#[test]
fn an_archive_in_an_archive_is_not_claimed_and_one_that_lies_deep_tells_all_that_it_lies_in() {
    let archive = Archive::new();
    let mut outer = Agent::start(&archive.path);
    let record = format!("{ID}\n{PERTH}\n");
    claim(&mut outer, Claim::First, &record);
    let deep = archive.path.join("p/1").join("a/".repeat(160));
    fs::create_dir_all(&deep).expect("a directory");
    let mut agent = Agent::start(&deep);
    let (class, why) =
        agent.ask(Lane::CONTROL, &Request::Claim { how: Claim::First, record: &record }).expect_err("a refusal");
    assert!(class == Class::Refused && why.contains("it lies in the archive of target perth"), "{why}");
    assert!(why.contains("162 directories above"), "{why}");
    assert!(!deep.join(".dpkg_archive/archive").exists());
    let inode = fs::metadata(&archive.path).expect("a directory").ino();
    let title = agent.ask(Lane::CONTROL, &Request::Claim { how: Claim::Look, record: "" }).expect("an answer");
    assert_eq!(title.len(), 2, "two lines tell so many: {title:?}");
    assert!(title[1].split(' ').any(|word| word.ends_with(&format!(":{inode}"))), "{title:?}");
    fs::remove_file(archive.house("archive")).expect("a record");
    assert_eq!(claim(&mut agent, Claim::First, &record), format!("{ID} {PERTH}"));
}

#[test]
fn only_its_owner_lists_marks_and_deletes_also_when_that_changes_in_between() {
    let archive = Archive::new();
    archive.put("p", "1", &[("f", "x")], 5);
    archive.put("q", "1", &[("f", "x")], 5);
    let mut agent = Agent::start(&archive.path);
    agent.send(Lane::CONTROL, &Request::Own { owner: PERTH });
    let list = "q 1\n# end 1\n";
    assert!(store(&mut agent, list).is_err_and(|(_, why)| why.contains("does not name its owner")));
    claim(&mut agent, Claim::First, &format!("{ID}\n{PERTH}\n"));
    assert_eq!(store(&mut agent, list), Ok(vec!["former missing".to_owned()]));
    assert_eq!(store(&mut agent, list), Ok(vec!["former whole".to_owned()]));
    fs::write(archive.house("PackageList.txt"), "q 1\n").expect("a list");
    assert_eq!(store(&mut agent, list), Ok(vec!["former damaged".to_owned()]));
    claim(&mut agent, Claim::Adopt, &format!("{ID}\n{OSLO}\n"));
    for how in [Retirement::Unmark, Retirement::Mark(5), Retirement::DeleteDue, Retirement::Delete] {
        let refused = retire(&mut agent, how);
        assert!(refused.is_err_and(|(_, why)| why.contains(OSLO) && why.contains("blat adopt")), "{how:?}");
    }
    assert!(store(&mut agent, "# end 0\n").is_err());
    assert!(archive.path.join("p/1").exists() && !archive.house("aged/p@1").exists());
    agent.send(Lane::CONTROL, &Request::Own { owner: OSLO });
    assert_eq!(retire(&mut agent, Retirement::Delete), Ok(vec!["deleted p 1".to_owned()]));
}

/// Between two adoptions by one owner the archive may have been another's, whose tags brought what the earlier plan does not know.
#[test]
fn what_was_planned_before_an_adoption_is_not_done_after_it_by_the_same_owner() {
    let archive = Archive::new();
    archive.put("p", "1", &[("f", "x")], 5);
    archive.put("q", "1", &[("f", "x")], 5);
    let mut agent = Agent::start(&archive.path);
    let ids = [ID.to_owned(), ID.replace('0', "e"), ID.replace('0', "f")];
    let [before, between, after] =
        [(0, PERTH), (1, OSLO), (2, PERTH)].map(|(id, owner)| format!("{} {owner}", ids[id]));
    claim(&mut agent, Claim::First, &before);
    agent.send(Lane::CONTROL, &Request::Own { owner: &before });
    let list = "q 1\n# end 1\n";
    assert_eq!(store(&mut agent, list), Ok(vec!["former missing".to_owned()]));
    claim(&mut agent, Claim::Adopt, &between);
    assert_eq!(claim(&mut agent, Claim::Adopt, &after), after);
    let is_refused = |answer: Result<Vec<String>, (Class, String)>| {
        answer.is_err_and(|(_, why)| why.contains("it was adopted since this was planned"))
    };
    for how in [Retirement::Unmark, Retirement::Mark(5), Retirement::DeleteDue, Retirement::Delete] {
        assert!(is_refused(retire(&mut agent, how)), "{how:?}");
    }
    assert!(is_refused(store(&mut agent, list)) && is_refused(store(&mut agent, "p 1\n# end 1\n")));
    assert!(archive.path.join("p/1").exists() && !archive.house("aged/p@1").exists());
    agent.send(Lane::CONTROL, &Request::Own { owner: &after });
    assert_eq!(retire(&mut agent, Retirement::Delete), Ok(vec!["deleted p 1".to_owned()]));
}

#[test]
fn only_its_owner_replaces_packages_and_links_also_when_that_changes_in_between() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    let version = |bytes: &str, second: i64| Package::new("p", "1").file("f", bytes).time(1_700_000_000 + second);
    claim(&mut agent, Claim::First, &format!("{ID}\n{PERTH}\n"));
    for lane in [Lane::TAGS, Lane::BULK, Lane::CONTROL] {
        agent.send(lane, &Request::Own { owner: PERTH });
    }
    let link = |agent: &mut Agent, to: &str| {
        let links = vec![(id("p@current"), to.parse().expect("a version"))];
        agent.ask(Lane::CONTROL, &Request::Link { links }).expect("an answer").concat()
    };
    let how = |lane, rule| How { lane, rule, ..How::default() };
    assert_eq!(version("a", 0).deliver(&mut agent, &how(Lane::TAGS, Rule::Replace)), "published p 1");
    assert_eq!(version("b", 1).deliver(&mut agent, &how(Lane::TAGS, Rule::Replace)), "replaced p 1");
    archive.put("p", "2", &[("f", "x")], 5);
    assert_eq!((link(&mut agent, "1"), link(&mut agent, "2")), ("linked p current".into(), "linked p current".into()));
    claim(&mut agent, Claim::Adopt, &format!("{ID}\n{OSLO}\n"));
    for (lane, rule) in [(Lane::TAGS, Rule::Replace), (Lane::BULK, Rule::Replace), (Lane::BULK, Rule::Repair)] {
        let line = version("c", 2).deliver(&mut agent, &how(lane, rule));
        assert!(line.starts_with("failed p 1 unowned ") && line.contains(OSLO), "{line}");
    }
    assert_eq!(fs::read_to_string(archive.path.join("p/1/f")).expect("a file"), "b");
    let line = link(&mut agent, "1");
    assert!(line.starts_with("failed p current conflict ") && line.contains(OSLO), "{line}");
    assert_eq!(link(&mut agent, "2"), "already p current");
    fs::write(archive.house("archive"), "").expect("a record");
    let line = version("c", 2).deliver(&mut agent, &how(Lane::TAGS, Rule::Replace));
    assert!(line.contains("does not name its owner"), "{line}");
    agent.send(Lane::TAGS, &Request::Own { owner: OSLO });
    claim(&mut agent, Claim::Adopt, &format!("{ID}\n{OSLO}\n"));
    assert_eq!(version("c", 2).deliver(&mut agent, &how(Lane::TAGS, Rule::Replace)), "replaced p 1");
    fs::remove_file(archive.house("archive")).expect("a record");
    let line = version("d", 3).deliver(&mut agent, &how(Lane::TAGS, Rule::Replace));
    assert!(line.starts_with("failed p 1 unowned "), "an archive of nobody may be another one: {line}");
}

#[test]
fn a_package_that_another_archive_lies_in_is_neither_replaced_nor_deleted() {
    let archive = Archive::new();
    let mut agent = Agent::start(&archive.path);
    archive.put("p", "1", &[("f", "x")], 5);
    archive.put("q", "1", &[("f", "x")], 5);
    let inner = archive.path.join("p/1/deep/inner");
    fs::create_dir_all(&inner).expect("a directory");
    // The inner one is claimed first: then nobody sees an archive above it.
    let mut of_inner = Agent::start(&inner);
    assert_eq!(claim(&mut of_inner, Claim::First, &format!("{ID}\n{OSLO}\n")), format!("{ID} {OSLO}"));
    claim(&mut agent, Claim::First, &format!("{}\n{PERTH}\n", ID.replace('0', "f")));
    let list = "q 1\n# end 1\n";
    assert_eq!(store(&mut agent, list), Ok(vec!["former missing".to_owned()]));
    let why = "another archive is in it, which would go with it";
    let kept = retire(&mut agent, Retirement::Delete).expect("an answer").concat();
    assert!(kept.starts_with("failed p 1 foreign ") && kept.contains(why), "{kept}");
    for rule in [Rule::Replace, Rule::Repair] {
        let line = Package::new("p", "1").file("f", "y").deliver(&mut agent, &How { rule, ..How::default() });
        assert!(line.starts_with("failed p 1 foreign ") && line.contains(why), "{line}");
    }
    assert!(inner.join(".dpkg_archive/archive").exists());
    fs::remove_dir_all(archive.path.join("p/1/deep")).expect("a directory");
    assert_eq!(retire(&mut agent, Retirement::Delete), Ok(vec!["deleted p 1".to_owned()]));
}

#[test]
fn as_root_an_archive_in_a_closed_folder_keeps_the_package_and_closed_folders_of_its_own_do_not() {
    for mode in [0o311_u16, 0o300, 0o100, 0o600, 0] {
        let archive = Archive::new();
        archive.put("p", "1", &[("f", "x")], 5);
        archive.put("q", "1", &[("f", "x")], 5);
        let shut = archive.path.join("p/1/shut");
        let house = shut.join("deeper/.dpkg_archive");
        fs::create_dir_all(&house).expect("a directory");
        fs::write(house.join("archive"), format!("{ID}\n{OSLO}\n")).expect("a record");
        fs::create_dir_all(archive.house("")).expect("a directory");
        fs::write(archive.house("PackageList.txt"), "q 1\n# end 1\n").expect("a list");
        let mut agent = Agent::start_unprivileged(&archive);
        let set = |path: &Path, mode: u16| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode.into())).expect("a mode");
        };
        let mode_of = |path: &Path| fs::metadata(path).expect("a directory").mode() & 0o7777;
        let as_it_was = u32::from(mode);
        [&house, &shut].into_iter().for_each(|path| set(path, mode));
        let replace = How { rule: Rule::Replace, ..How::default() };
        for _ in 0..2 {
            let kept = retire(&mut agent, Retirement::Delete).expect("an answer").concat();
            assert!(kept.starts_with("failed p 1 foreign another archive is in it"), "{mode:o}: {kept}");
            let line = Package::new("p", "1").file("f", "y").deliver(&mut agent, &replace);
            assert!(line.starts_with("failed p 1 foreign another archive is in it"), "{mode:o}: {line}");
            assert_eq!(mode_of(&shut), as_it_was, "it is as it was");
        }
        set(&shut, 0o700);
        assert_eq!(mode_of(&house), as_it_was, "and so is what is in it");
        assert_eq!(fs::read_to_string(house.join("archive")).expect("a record").lines().count(), 2, "{mode:o}");
        set(&house, 0o700);
        fs::remove_file(house.join("archive")).expect("a record");
        [&house, &shut].into_iter().for_each(|path| set(path, mode));
        assert_eq!(Package::new("p", "1").file("f", "y").deliver(&mut agent, &replace), "replaced p 1", "{mode:o}");
        assert_eq!(fs::read_dir(archive.path.join("p")).expect("a directory").count(), 1);
        let own = Package::new("r", "1").node(b"shut", Node::Directory(mode)).file("shut/f", "x");
        assert_eq!(own.deliver(&mut agent, &How::default()), "published r 1");
        let packages = ["p@1", "r@1"].map(|package| Leaving::new(id(package), None)).to_vec();
        let deleted = agent.ask(Lane::CONTROL, &Request::Retire { how: Retirement::Delete, packages });
        assert_eq!(deleted, Ok(vec!["deleted p 1".to_owned(), "deleted r 1".to_owned()]), "{mode:o}");
        let trash = || fs::read_dir(archive.house("trash")).map_or(0, Iterator::count);
        support::wait_for("the trash to go", || trash() == 0);
    }
}

#[test]
fn as_root_a_folder_that_cannot_be_looked_into_keeps_its_package_and_no_other_one() {
    let archive = Archive::new();
    for name in ["p", "q", "r"] {
        archive.put(name, "1", &[("f", "x")], 5);
    }
    fs::create_dir_all(archive.house("")).expect("a directory");
    fs::write(archive.house("PackageList.txt"), "r 1\n# end 1\n").expect("a list");
    let mut agent = Agent::start_unprivileged(&archive);
    let planted = archive.path.join("p/1/shut");
    fs::create_dir(&planted).expect("root may");
    for mode in [0o700, 0o711, 0o055, 0] {
        fs::set_permissions(&planted, fs::Permissions::from_mode(mode)).expect("root may");
        let packages = ["p@1", "q@1"].map(|package| Leaving::new(id(package), None)).to_vec();
        let lines =
            agent.ask(Lane::CONTROL, &Request::Retire { how: Retirement::Delete, packages }).expect("an answer");
        let why = "failed p 1 foreign its folder \"1/shut\" cannot be looked into, and another archive or a mount in it would go with it";
        assert!(lines[0].starts_with(why) && lines[0].contains("as root"), "{mode:o}: {lines:?}");
        assert!(lines[1] == "deleted q 1" || lines[1] == "absent q 1", "{lines:?}");
        let replace = How { rule: Rule::Replace, ..How::default() };
        let line = Package::new("p", "1").file("f", "y").deliver(&mut agent, &replace);
        assert!(line.starts_with(why), "{mode:o}: {line}");
    }
    assert!(planted.exists());
    fs::remove_dir(&planted).expect("root may");
    assert_eq!(retire(&mut agent, Retirement::Delete), Ok(vec!["deleted p 1".to_owned()]));
}

#[test]
fn nothing_is_listed_marked_or_deleted_for_an_agent_that_does_not_say_go_under_the_lock() {
    let archive = Archive::new();
    archive.put("p", "1", &[("f", "x")], 5);
    archive.put("q", "1", &[("f", "x")], 5);
    let mut agent = Agent::start(&archive.path);
    assert_eq!(store(&mut agent, "q 1\n# end 1\n"), Ok(vec!["former missing".to_owned()]));
    let lock = fs::File::options().write(true).open(archive.house("publish.lock")).expect("a lock file");
    lock.lock().expect("a lock");
    let mut gone = Agent::start(&archive.path);
    gone.send(
        Lane::CONTROL,
        &Request::Retire { how: Retirement::Delete, packages: vec![Leaving::new(id("p@1"), None)] },
    );
    support::wait_for("it to wait for the lock", || {
        fs::read_dir(archive.house("stage")).is_ok_and(|mut stage| stage.next().is_some())
    });
    gone.end();
    lock.unlock().expect("a lock");
    agent.send(
        Lane::CONTROL,
        &Request::Retire { how: Retirement::Delete, packages: vec![Leaving::new(id("p@1"), None)] },
    );
    assert_eq!(agent.hear(Lane::CONTROL), Some(support::Said::Ready), "p 1 is there still");
    agent.send(Lane::CONTROL, &Request::Publish);
    let refused = agent.lines(Lane::CONTROL);
    assert!(refused.is_err_and(|(class, why)| class == Class::Busy && why.contains("nothing was changed")));
    assert_eq!(retire(&mut agent, Retirement::Delete), Ok(vec!["deleted p 1".to_owned()]), "and it goes on");
    let list = "q 1\n# end 1\n";
    agent.send(
        Lane::CONTROL,
        &Request::Store { bytes: list.len() as u64, digest: Sha256::digest(list).into(), purge: Purge::Allowed },
    );
    agent.send(Lane::CONTROL, &Request::Data(list.as_bytes()));
    let said = (agent.hear(Lane::CONTROL), agent.hear(Lane::CONTROL));
    let unasked = (Some(support::Said::Lines("former whole\n".to_owned())), Some(support::Said::Done));
    assert_eq!(said, unasked, "the very list that is there takes no question");
    let missing = store(&mut agent, "p 1\nq 1\n# end 2\n");
    assert!(missing.is_err_and(|(_, why)| why.contains("it names p 1, which is not there any more")));
    assert_eq!(fs::read_to_string(archive.house("PackageList.txt")).expect("a list"), "q 1\n# end 1\n");
}

#[test]
fn nothing_goes_or_is_marked_that_is_the_sources_own_file() {
    let archive = Archive::new();
    archive.put("p", "1", &[("f", "x")], 5);
    archive.put("q", "1", &[("f", "x")], 5);
    symlink("1", archive.path.join("p/current")).expect("a link");
    let mut agent = Agent::start(&archive.path);
    assert_eq!(store(&mut agent, "r 1\n# end 1\n").map_err(|(_, why)| why.contains("r 1")), Err(true));
    fs::write(archive.house("PackageList.txt"), "r 1\n# end 1\n").expect("a list");
    let identity = |path: &str| {
        let found = fs::symlink_metadata(archive.path.join(path)).expect("a file");
        Identity::new(found.ino(), found.ctime(), u32::try_from(found.ctime_nsec()).expect("nanoseconds"))
    };
    let (descpkg, link) = (identity("p/1/descpkg"), identity("p/current"));
    for (package, source) in [("p@1", vec![descpkg]), ("p@current", vec![identity("q/1/descpkg"), link])] {
        let packages = vec![Leaving::new(id("q@1"), None), Leaving { source, ..Leaving::new(id(package), None) }];
        for how in [Retirement::Mark(5), Retirement::DeleteDue, Retirement::Delete] {
            let request = Request::Retire { how, packages: packages.clone() };
            let (class, why) = agent.ask(Lane::CONTROL, &request).expect_err("a refusal");
            assert!(class == Class::Refused && why.contains("the archive and the source are the same"), "{why}");
            assert!(why.contains(package), "{why}");
        }
    }
    assert!(archive.path.join("q/1").exists() && fs::read_dir(archive.house("aged")).map_or(0, Iterator::count) == 0);
    let others = [("p@1", vec![Identity::new(7, 5, 3)]), ("p@current", vec![Identity::new(7, 5, 3)]), ("q@1", vec![])];
    let packages = others.map(|(package, source)| Leaving { source, ..Leaving::new(id(package), None) }).to_vec();
    let deleted = agent.ask(Lane::CONTROL, &Request::Retire { how: Retirement::Delete, packages });
    assert_eq!(deleted, Ok(["p 1", "p current", "q 1"].map(|package| format!("deleted {package}")).to_vec()));
}

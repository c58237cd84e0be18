//! A package may have folders that everybody may write. Whoever exchanges what lies in them while the target scripts delete the package reaches nothing
//! else of the target's account.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use blat_tests::Lab;
use blat_tests::accounts::Account;
use blat_tests::process::Outcome;

/// Exchanges each of these names in the folder with a link to the victim, over and over.
const EXCHANGE: &str = r#"
    my ($folder, $victim, @names) = @ARGV;
    chdir $folder or die;
    symlink $victim, ".link-$_" for @names;
    $| = 1;
    print "ready\n";
    while (1) {
        for (@names) {
            rename $_, ".$_"; rename ".link-$_", $_; select undef, undef, undef, 0.0001;
            rename $_, ".link-$_"; rename ".$_", $_; select undef, undef, undef, 0.0001;
        }
    }"#;

/// As the target's account: a package with such a folder, and a victim elsewhere. `$1` is the archive, `$2` the victim.
const CLOSED: &str = r#"umask 022; cd "$1" && mkdir -p work/1/pub "$2" && echo x >work/1/descpkg || exit 1
    for number in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19; do mkdir -m 0 work/1/pub/d$number; done
    chmod 777 work/1/pub && chmod 700 "$2""#;
const FULL: &str = r#"umask 022; cd "$1" && mkdir -p work/1/pub/big "$2" && echo x >work/1/descpkg || exit 1
    number=0
    while [ $number -lt 300 ]; do echo >work/1/pub/big/f$number; echo >"$2/f$number"; number=$((number + 1)); done
    chmod 777 work/1/pub work/1/pub/big"#;

struct Exchanger(Child);

impl Drop for Exchanger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A stranger who exchanges names in the package's open folder.
fn exchanger(lab: &Lab, victim: &Path, names: &[String]) -> Exchanger {
    exchanger_in(&lab.on_target("work", "1").join("pub"), victim, names)
}

fn exchanger_in(folder: &Path, victim: &Path, names: &[String]) -> Exchanger {
    let mut command = Account::Stranger.command("perl");
    command.args(["-e", EXCHANGE]).arg(folder).arg(victim).args(names);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("perl");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("text");
    assert_eq!(line, "ready\n");
    Exchanger(child)
}

fn lab(name: &str) -> (Lab, PathBuf) {
    let lab = Lab::new(name);
    lab.package("core", "1", |p| p.file("a", "1"));
    lab.release(&[("core", "1")]);
    lab.config("perth", "");
    lab.agent_once("perth").expect_success();
    let victim = lab.target_archive().with_file_name("victim");
    (lab, victim)
}

fn make(lab: &Lab, how: &str, victim: &Path) {
    let archive = lab.target_archive();
    let argv = ["sh", "-c", how, "sh", archive.to_str().expect("UTF-8"), victim.to_str().expect("UTF-8")];
    lab.as_target_user(&argv).expect_success();
}

/// Deletes the package by the script, with these tools before all others.
fn delete(lab: &Lab, tools: &str) -> Outcome {
    delete_in(lab, tools, &lab.target_archive())
}

fn delete_in(lab: &Lab, tools: &str, archive: &Path) -> Outcome {
    let script = lab.target_bin().join("delete_package").display().to_string();
    let path = format!("PATH={tools}:/usr/bin:/bin");
    lab.as_target_user(&["env", &path, "sh", &script, "--archive", archive.to_str().expect("UTF-8"), "work/1"])
}

/// A folder of busybox's tools.
fn busybox(lab: &Lab) -> String {
    let tools = lab.target_archive().with_file_name("applets").display().to_string();
    lab.as_target_user(&["sh", "-c", "mkdir \"$1\" && busybox --install -s \"$1\"", "sh", &tools]).expect_success();
    tools
}

#[test]
fn as_root_closed_folders_that_a_stranger_exchanges_have_nothing_else_opened() {
    let (lab, victim) = lab("exopen");
    let names: Vec<String> = (0..20).map(|number| format!("d{number}")).collect();
    for tools in ["/usr/bin".to_owned(), busybox(&lab)] {
        for _ in 0..3 {
            make(&lab, CLOSED, &victim);
            let exchanger = exchanger(&lab, &victim, &names);
            let outcome = delete(&lab, &tools);
            drop(exchanger);
            assert_eq!(fs::metadata(&victim).expect("it stays").mode() & 0o7777, 0o700, "{tools}: {outcome}");
            outcome.expect_success().says("deleted work 1");
            assert!(!outcome.to_string().contains("leftover"), "{outcome}");
        }
    }
}

#[test]
fn as_root_a_folder_that_a_stranger_exchanges_while_it_is_removed_has_nothing_else_removed() {
    let (lab, victim) = lab("exgone");
    for tools in ["/usr/bin".to_owned(), busybox(&lab)] {
        for _ in 0..3 {
            make(&lab, FULL, &victim);
            let exchanger = exchanger(&lab, &victim, &["big".to_owned()]);
            let outcome = delete(&lab, &tools);
            drop(exchanger);
            assert_eq!(fs::read_dir(&victim).expect("it stays").count(), 300, "{tools}: {outcome}");
            outcome.expect_success().says("deleted work 1");
            assert!(!outcome.to_string().contains("leftover"), "{outcome}");
        }
    }
}

/// In a folder of his own he could exchange things at any time.
#[test]
fn as_root_a_folder_of_a_strangers_keeps_its_package_whole_and_the_others_go() {
    let (lab, victim) = lab("exown");
    make(&lab, FULL, &victim);
    let own = lab.on_target("work", "1").join("pub/own");
    lab.run_as(Account::Stranger, &["mkdir", "-m", "777", own.to_str().expect("UTF-8")]).expect_success();
    delete(&lab, "/usr/bin")
        .expect_success()
        .says("failed work 1 foreign others may exchange what lies in a folder of it: work/1/pub/own belongs to user");
    assert!(own.is_dir() && lab.on_target("work", "1").join("pub/big/f0").is_file());

    // What was on its way when somebody put it there stays as a leftover, and so does nothing else.
    let script = "cd \"$1/.dpkg_archive\" && chmod u+w ../core/1 && mkdir trash/dead && mv ../core/1 trash/dead/core@1 && mv ../work/1 trash/dead/work@1";
    let archive = lab.target_archive().display().to_string();
    lab.as_target_user(&["sh", "-c", script, "sh", &archive]).expect_success();
    let outcome = delete(&lab, "/usr/bin");
    outcome.expect_success().says("absent work 1").says("leftover .dpkg_archive/trash/dead user=");
    let trash = lab.target_archive().join(".dpkg_archive/trash/dead");
    assert!(trash.join("work@1/pub/own").is_dir() && trash.join("work@1/pub/big/f0").is_file(), "{outcome}");
    assert!(!trash.join("core@1").exists(), "{outcome}");
}

/// Who owns a folder on the way to an archive leads scripts to no other folder of the account's by a link there; links of the account's and of root's are
/// followed.
#[test]
fn as_root_a_stranger_s_link_on_the_way_to_the_archive_is_not_followed() {
    let (lab, victim) = lab("exway");
    let area = lab.target_archive().with_file_name("area");
    let path = area.display().to_string();
    lab.as_target_user(&["mkdir", "-p", &format!("{path}/arch")]).expect_success();
    fs::set_permissions(&area, fs::Permissions::from_mode(0o755)).expect("root may");
    Account::Stranger.own(&area);
    let package = "mkdir -p \"$2/work/1\" && echo x >\"$2/work/1/descpkg\"";
    make(&lab, package, &victim);
    for round in 0..15 {
        let exchanger = exchanger_in(&area, &victim, &["arch".to_owned()]);
        let tools = if round % 2 == 0 { "/usr/bin" } else { "/bin" };
        let outcome = delete_in(&lab, tools, &area.join("arch"));
        drop(exchanger);
        assert!(victim.join("work/1/descpkg").is_file(), "{outcome}");
        assert!(!victim.join(".dpkg_archive").exists(), "{outcome}");
        // Whatever state the names were left in.
        for name in ["arch", ".arch", ".link-arch"] {
            if area.join(name).is_dir() && !area.join(name).is_symlink() {
                fs::rename(area.join(name), area.join("real")).expect("root may");
            } else if area.join(name).is_symlink() {
                fs::remove_file(area.join(name)).expect("root may");
            }
        }
        fs::rename(area.join("real"), area.join("arch")).expect("root may");
    }
    let stranger = Account::Stranger.ids().0;
    let says = format!("a folder on the way belongs to user {stranger}, neither root nor this account");
    for way in ["arch", "./arch/", "../area/arch/."] {
        delete_in(&lab, "/usr/bin", &area.join(way)).expect(1).says(&says);
    }
    // Where the folder is root's or the account's, a stranger's link is none.
    fs::rename(area.join("arch"), area.join("real")).expect("root may");
    symlink(&victim, area.join("arch")).expect("root may");
    Account::Stranger.own(&area.join("arch"));
    Account::Target.own(&area);
    std::os::unix::fs::lchown(area.join("arch"), Some(stranger), None).expect("root may");
    for way in ["arch", "./arch/", "../area/arch/.", "arch/work/.."] {
        let says = format!("a link on the way belongs to user {stranger}, neither root nor this account");
        delete_in(&lab, "/usr/bin", &area.join(way)).expect(1).says(&says);
    }
    assert!(victim.join("work/1/descpkg").is_file());

    let home = lab.target_archive();
    symlink("dpkg_archive", home.with_file_name("of-root")).expect("root may");
    lab.as_target_user(&["ln", "-s", "of-root/../of-root", &home.with_file_name("own").display().to_string()])
        .expect_success();
    for way in ["of-root", "own"] {
        make(&lab, FULL, &home.with_file_name("elsewhere"));
        delete_in(&lab, "/usr/bin", &home.with_file_name(way)).expect_success().says("deleted work 1");
    }
}

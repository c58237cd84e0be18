//! What is installed where, with a shell of this machine for a target and scripts for builds.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::transport::local::Shell;

/// A scratch folder with a build in it that is run by a shell.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new(build: &str) -> Self {
        let scene = Self { folder: tempfile::tempdir().expect("a scratch folder") };
        scene.build(build);
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn build(&self, text: &str) {
        std::fs::write(self.path("build"), text).expect("a build");
    }

    fn bin(&self) -> String {
        self.path("it's a \"bin\"").display().to_string()
    }

    fn probe(&self) -> RemoteProbe {
        RemoteProbe::new(Receiver::Build(self.path("build")), "it's\\an archive".to_owned(), self.bin())
    }

    fn installed(&self) -> PathBuf {
        PathBuf::from(self.bin()).join(EXECUTABLE)
    }

    /// What else is in the scripts' directory than scripts and receiver.
    fn leavings(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.bin()).expect("a directory");
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with('.')).collect()
    }
}

/// A build that counts its runs and says this of its version.
fn saying(version: &str) -> String {
    format!("#!/bin/sh\necho run >>\"$0.runs\"\necho '{version}'\n")
}

fn local() -> Transport {
    Transport::Local(Shell::new())
}

#[tokio::test]
async fn a_receiver_is_installed_when_missing_or_changed_and_left_alone_otherwise() {
    let scene = Scene::new(&saying(VERSION));
    let found = scene.probe().far_end(&local()).await.expect("a far end");
    let command = format!(
        "exec {}/blat-receiver' --archive 'it'\\''s\\an archive'",
        shell_word(&scene.bin()).trim_end_matches('\'')
    );
    assert_eq!(found.serves, Serves::Receiver { command, restricted: false, scripts: None });
    let mode = std::fs::metadata(scene.installed()).expect("installed").permissions().mode() & 0o777;
    assert_eq!(mode, 0o755);

    let before = std::fs::metadata(scene.installed()).expect("installed").modified().expect("a time");
    scene.probe().far_end(&local()).await.expect("nothing to install");
    assert_eq!(std::fs::metadata(scene.installed()).expect("there").modified().expect("a time"), before);
    std::fs::write(scene.installed(), "tampered").expect("a change");
    scene.probe().far_end(&local()).await.expect("a repair");
    assert_eq!(std::fs::read_to_string(scene.installed()).expect("text"), saying(VERSION));

    scene.build(&format!("{}# a later build\n", saying(VERSION)));
    scene.probe().far_end(&local()).await.expect("another build");
    assert!(std::fs::read_to_string(scene.installed()).expect("text").ends_with("# a later build\n"));
    let leavings: Vec<String> = scene.leavings().into_iter().filter(|name| !name.ends_with(".runs")).collect();
    assert_eq!(leavings, Vec::<String>::new());
}

#[tokio::test]
async fn a_build_that_cannot_run_there_is_not_left_there_and_an_error_where_the_config_names_it() {
    for (build, why) in [
        (saying("blat-receiver 0.0.0"), "of its version"),
        ("#!/nowhere/interpreter\n".to_owned(), "cannot run in"),
        ("#!/bin/sh\nprintf '\\033[31mno\\n' >&2\nexit 3\n".to_owned(), "(status 3)"),
    ] {
        let scene = Scene::new(&build);
        let error = scene.probe().far_end(&local()).await.expect_err("no receiver");
        let told =
            matches!(&error, TargetError::Operator(text) if text.contains(why) && text.contains("receiver: auto"));
        assert!(told && !error.to_string().contains('\x1b'), "{why}: {error:?}");
        assert!(!scene.installed().exists(), "{why}");
        assert!(PathBuf::from(scene.bin()).join("receive_package").exists(), "the scripts are there all the same");
    }
    let scene = Scene::new("");
    std::fs::remove_file(scene.path("build")).expect("a build");
    let error = scene.probe().far_end(&local()).await.expect_err("no build");
    assert!(matches!(&error, TargetError::Operator(text) if text.contains("cannot read the build")), "{error:?}");
}

#[tokio::test]
async fn a_directory_in_the_receivers_place_is_named_and_nothing_is_put_into_it() {
    let scene = Scene::new(&saying(VERSION));
    std::fs::create_dir_all(scene.installed()).expect("a folder");
    let error = scene.probe().far_end(&local()).await.expect_err("no receiver");
    let text = error.to_string();
    assert!(text.contains("blat-receiver there is a directory; move it away"), "{text}");
    assert_eq!(std::fs::read_dir(scene.installed()).expect("it stays").count(), 0);
}

#[tokio::test]
async fn what_came_to_nothing_is_not_tried_again_over_the_same_connection() {
    let scene = Scene::new(&saying("another"));
    let probe = scene.probe();
    let first = probe.far_end(&local()).await.expect_err("no receiver");
    // As the same build it would be installed now; only a new connection finds out.
    scene.build(&saying(VERSION));
    assert_eq!(probe.far_end(&local()).await.expect_err("no receiver"), first);
    assert!(scene.probe().far_end(&local()).await.is_ok());
}

#[tokio::test]
async fn looking_changes_nothing() {
    let scene = Scene::new(&saying(VERSION));
    let look = async || scene.probe().look(&local()).await.expect("a look").receiver;
    assert!(look().await.is_ok_and(|note| note.contains("to be installed")));
    assert!(!PathBuf::from(scene.bin()).exists());
    scene.probe().far_end(&local()).await.expect("installed");
    assert!(look().await.is_ok_and(|note| note.contains("is current")));
}

#[tokio::test]
async fn where_the_config_says_never_nothing_is_installed_and_nothing_is_to_be_explained() {
    let scene = Scene::new("");
    let probe = RemoteProbe::new(Receiver::Never, "archive".to_owned(), scene.bin());
    let found = probe.far_end(&local()).await.expect("a far end");
    assert_eq!(found.serves, Serves::Scripts { why: None });
    assert!(!scene.installed().exists());
}

#[test]
fn the_build_for_a_machine_is_chosen_and_what_is_missing_is_named() {
    let build = |machine| Ok(Build { machine, bytes: Vec::new(), digest: String::new() });
    let builds = || vec![build("x86_64-linux"), build("aarch64-linux")];
    let probe = RemoteProbe::new(Receiver::Auto, String::new(), String::new());
    let on = |system: &str, builds| {
        let mut told = Probe::default();
        told.system = system.to_owned();
        probe.chosen(builds, &told).expect("auto wants one").map(|build| build.machine)
    };
    assert_eq!(on("Linux aarch64", builds()), Ok("aarch64-linux"));
    assert_eq!(on("Linux x86_64", builds()), Ok("x86_64-linux"));
    let why = on("Linux armv7l", builds()).expect_err("none");
    assert_eq!(why, "no build of blat-receiver for Linux armv7l is carried, only for x86_64-linux, aarch64-linux");
    assert!(on("Linux x86_64", Vec::new()).is_err_and(|why| why.contains("carries no builds")));
}

use std::fs::{self, Permissions, set_permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().expect("a scratch directory"));
        fs::create_dir_all(tree.at("home/config")).expect("a home tree");
        fs::create_dir_all(tree.at("elsewhere")).expect("a checkout");
        fs::write(tree.at("elsewhere/x.conf"), "elsewhere").expect("a file");
        fs::write(tree.at("home/config/x.conf"), "here").expect("a file");
        for open in ["home", "home/config", "home/config/x.conf", "elsewhere", "elsewhere/x.conf"] {
            tree.set(open, 0o755);
        }
        tree
    }

    fn at(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    fn set(&self, below: &str, mode: u32) {
        set_permissions(self.at(below), Permissions::from_mode(mode)).expect("an own file");
    }

    fn read(&self, below: &str) -> Result<String, String> {
        let (home, path) = (self.at("home"), self.at(below));
        let opened = read(&home, &path, 100).map_err(|why| why.to_string());
        let checked = check(&home, &path).map_err(|why| why.to_string());
        assert_eq!(opened.is_ok(), checked.is_ok(), "{opened:?}, {checked:?}");
        opened
    }
}

#[test]
fn what_others_may_write_is_not_read() {
    let tree = Tree::new();
    assert_eq!(tree.read("home/config/x.conf").as_deref(), Ok("here"));
    for open in ["home/config/x.conf", "home/config", "home"] {
        for (mode, who) in [(0o775, "its group"), (0o757, "everybody")] {
            tree.set(open, mode);
            let why = tree.read("home/config/x.conf").expect_err(open);
            let named = tree.at(open).display().to_string();
            assert!(why.contains(who) && why.ends_with(&format!("; chmod go-w {named}")), "{why}");
            tree.set(open, 0o755);
        }
    }
    tree.set("home/config", 0o1777);
    let why = tree
        .read("home/config/x.conf")
        .expect_err("where its name was free, anybody may have moved a file of ours there");
    assert!(why.contains("config has mode 1777"), "{why}");
}

#[test]
fn a_link_is_followed_where_all_of_its_way_is_trusted() {
    let tree = Tree::new();
    for (name, target) in [("relative", "../../elsewhere/x.conf".into()), ("absolute", tree.at("elsewhere/x.conf"))] {
        let link = format!("home/config/{name}.conf");
        symlink(target, tree.at(&link)).expect("a link");
        assert_eq!(tree.read(&link).as_deref(), Ok("elsewhere"));
        tree.set("elsewhere", 0o777);
        assert!(tree.read(&link).expect_err("open").contains("elsewhere has mode 0777"));
        tree.set("elsewhere", 0o755);
        tree.set("home/config", 0o1777);
        assert!(tree.read(&link).expect_err("anybody may have moved it there").contains("config has mode 1777"));
        tree.set("home/config", 0o755);
    }
    symlink("loop.conf", tree.at("home/config/loop.conf")).expect("a loop");
    assert!(tree.read("home/config/loop.conf").expect_err("a loop").contains("too many links"));
}

#[test]
fn only_regular_files_of_bounded_size_are_read() {
    let tree = Tree::new();
    rustix::fs::mkfifoat(CWD, tree.at("home/config/pipe"), Mode::from_raw_mode(0o600)).expect("a FIFO");
    fs::write(tree.at("home/config/large"), vec![b'x'; 101]).expect("a file");
    fs::write(tree.at("home/config/binary"), b"a\n\xff").expect("a file");
    assert!(read(&tree.at("home"), &tree.at("home/config/pipe"), 100).is_err());
    assert!(
        read(&tree.at("home"), &tree.at("home/config/large"), 100).expect_err("large").to_string().contains("larger")
    );
    let why = read(&tree.at("home"), &tree.at("home/config/binary"), 100).expect_err("no text").to_string();
    assert!(why.contains("see line 2"), "{why}");
    assert!(read(&tree.at("home"), &tree.at("home/config"), 100).is_err());
    assert!(check(&tree.at("home"), &tree.at("home/config/none")).expect_err("none").is_absence());
}

#[test]
fn a_place_for_programs_is_not_open_to_everybody_with_the_sticky_bit_either() {
    let tree = Tree::new();
    let is_safe = |way, place| {
        tree.set("elsewhere", way);
        tree.set("elsewhere/bin", place);
        check_place(&tree.at("home"), &tree.at("elsewhere/bin")).is_ok()
    };
    fs::create_dir(tree.at("elsewhere/bin")).expect("a folder");
    assert!(is_safe(0o755, 0o755));
    assert!(is_safe(0o1777, 0o755), "on the way others exchange none of ours");
    assert!(!is_safe(0o755, 0o1777), "there they may have put theirs before");
    assert!(!is_safe(0o777, 0o755));
}

#[test]
fn a_socket_is_in_no_folder_where_others_can_exchange_it() {
    let tree = Tree::new();
    fs::create_dir(tree.at("elsewhere/pg")).expect("a folder");
    let look = |way, folder| {
        tree.set("elsewhere", way);
        tree.set("elsewhere/pg", folder);
        check_socket_folder(&tree.at("elsewhere/pg")).map_err(|why| why.to_string())
    };
    assert_eq!(look(0o755, 0o755), Ok(false));
    assert_eq!(look(0o755, 0o2775), Ok(false), "as the servers' packages make it");
    assert_eq!(look(0o755, 0o1777), Ok(true), "as /tmp");
    assert_eq!(look(0o1777, 0o755), Ok(false), "nobody can exchange ours");
    for (way, folder) in [(0o755, 0o777), (0o777, 0o755)] {
        assert!(look(way, folder).is_err_and(|why| why.contains("everybody may write it")), "{way:o} {folder:o}");
    }
    symlink("pg", tree.at("elsewhere/link")).expect("a link");
    tree.set("elsewhere", 0o755);
    tree.set("elsewhere/pg", 0o777);
    assert!(check_socket_folder(&tree.at("elsewhere/link")).is_err());
    tree.set("elsewhere", 0o1777);
    assert_eq!(check_socket_folder(&tree.at("elsewhere/none/pg")).ok(), Some(true), "anybody can make it");
}

#[test]
fn as_root_a_socket_is_in_the_servers_own_folder_and_in_no_strangers() {
    let tree = Tree::new();
    fs::create_dir(tree.at("elsewhere/pg")).expect("a folder");
    let look = |of_way, way, folder| {
        for (path, uid) in [("elsewhere", of_way), ("elsewhere/pg", 7001)] {
            std::os::unix::fs::chown(tree.at(path), Some(uid), None).expect("root may");
        }
        tree.set("elsewhere", way);
        tree.set("elsewhere/pg", folder);
        check_socket_folder(&tree.at("elsewhere/pg")).map_err(|why| why.to_string())
    };
    assert_eq!(look(0, 0o755, 0o2775), Ok(false), "as /run/postgresql");
    assert_eq!(look(7001, 0o775, 0o755), Ok(false), "all of it is the server's");
    assert_eq!(look(0, 0o1777, 0o755), Ok(true), "a stranger may make it while it is missing");
    assert!(look(7002, 0o755, 0o755).is_err_and(|why| why.contains("belongs to user 7002")));
    assert!(look(0, 0o755, 0o777).is_err());
}

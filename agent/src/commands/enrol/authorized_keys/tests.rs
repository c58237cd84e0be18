use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use super::*;

const KEY: &str = "ssh-ed25519 AAA+/= blat's";
const FORCED: &str = "restrict,command=\"'b\\\\' \\\"\"";
const OTHERS: &str = "# ssh-ed25519 AAA+/= old\nssh-rsa BBB me\n";

fn key() -> PublicKey<'static> {
    PublicKey::parse(KEY).expect("a key")
}

/// An account on a target, as far as its keys are concerned.
struct Account {
    home: tempfile::TempDir,
    shell: &'static [&'static str],
}

impl Account {
    /// One for each shell that this machine has.
    fn each(keys: Option<&str>) -> impl Iterator<Item = Self> {
        const SHELLS: [&[&str]; 3] = [&["dash"], &["busybox", "sh"], &["bash", "--posix"]];
        let is_there =
            |shell: &&&[&str]| Command::new("which").arg(shell[0]).output().is_ok_and(|o| o.status.success());
        let keys = keys.map(str::to_owned);
        SHELLS.iter().filter(is_there).map(move |shell| {
            let account = Self { home: tempfile::tempdir().expect("a scratch directory"), shell };
            if let Some(keys) = &keys {
                fs::create_dir(account.ssh()).expect("a folder");
                fs::write(account.file(), keys).expect("a file");
            }
            account
        })
    }

    fn ssh(&self) -> PathBuf {
        self.home.path().join(".ssh")
    }

    fn file(&self) -> PathBuf {
        self.ssh().join("authorized_keys")
    }

    fn keys(&self) -> String {
        fs::read_to_string(self.file()).expect("the file")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.shell[0]);
        command.args(&self.shell[1..]).env("HOME", self.home.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self, script: &str) -> Child {
        let mut child = self.command().spawn().expect("a shell");
        let stdin = child.stdin.as_mut().expect("a pipe");
        stdin.write_all(script.as_bytes()).expect("a shell that reads");
        child
    }

    fn run(&self, script: &str) -> Output {
        self.start(script).wait_with_output().expect("a shell")
    }

    fn succeed(&self, script: &str) {
        let output = self.run(script);
        assert!(output.status.success() && output.stderr.is_empty(), "{:?}: {output:?}", self.shell);
    }

    /// Runs it; it says this, changes nothing, and leaves nothing behind.
    fn refuse(&self, script: &str, why: &str) {
        let before = fs::read(self.file()).ok();
        let output = self.run(script);
        assert!(!output.status.success(), "{:?}: {output:?}", self.shell);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(why) && said.contains("nothing is changed"), "{:?}: {said}", self.shell);
        assert_eq!(fs::read(self.file()).ok(), before, "{:?}: {said}", self.shell);
        self.assert_clean(&self.ssh());
    }

    fn assert_clean(&self, folder: &Path) {
        let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        let left: Vec<_> = entries.filter(|name| name.to_string_lossy().contains(".blat-")).collect();
        assert!(left.is_empty(), "{:?}: {left:?}", self.shell);
    }

    /// Starts the script that frees the key, and waits until it has.
    fn free(&self) -> (Child, BufReader<ChildStdout>) {
        let mut child = self.start(&key().freeing());
        let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        said.read_line(&mut line).expect("a line");
        assert_eq!(line.trim_end(), FREED, "{:?}", self.shell);
        (child, said)
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

#[test]
fn a_key_is_added_once_and_other_lines_stay() {
    for account in Account::each(None) {
        account.succeed(&key().addition());
        assert_eq!(account.keys(), format!("{KEY}\n"));
        assert_eq!((mode(&account.file()), mode(&account.ssh())), (0o600, 0o700));
    }
    for account in Account::each(Some("# mine\nssh-rsa BBB me")) {
        let both = format!("# mine\nssh-rsa BBB me\n{KEY}\n");
        account.succeed(&key().addition());
        assert_eq!(account.keys(), both, "behind a line without its end");
        account.succeed(&PublicKey::parse("ssh-ed25519 AAA+/= another comment").expect("a key").addition());
        assert_eq!(account.keys(), both, "the same key is not added again");
        account.assert_clean(&account.ssh());
    }
}

#[test]
fn the_line_of_the_key_is_restricted_and_others_stay() {
    let restricted = |text: &str, expected: &str| {
        for account in Account::each(Some(text)) {
            account.succeed(&key().restriction(FORCED));
            assert_eq!(account.keys(), expected, "{:?}", account.shell);
            account.succeed(&key().undoing(FORCED));
            assert_eq!(account.keys(), text, "it can be brought back");
            account.succeed(&key().restriction(FORCED));
            account.succeed(&PublicKey::forgetting());
            assert_eq!(account.keys(), expected);
            account.assert_clean(&account.ssh());
        }
    };
    restricted(&format!("{KEY}\n"), &format!("{FORCED} {KEY}\n"));
    let twice = format!("{OTHERS}from=\"10.0.0.*\",pty {KEY}\nno-pty {KEY}\nssh-rsa CCC you");
    let once = format!("{OTHERS}{FORCED},from=\"10.0.0.*\" {KEY}\nssh-rsa CCC you\n");
    restricted(&twice, &once); // Other options could allow what the restriction forbids.
    restricted(&format!("restrict,command=\"old\" {KEY}\n"), &format!("{FORCED} {KEY}\n"));
    let odd = "Expiry-Time=\"20990101\" ssh-ed25519\t AAA+/=\tblat\n";
    restricted(odd, &format!("{FORCED},Expiry-Time=\"20990101\" ssh-ed25519 AAA+/=\tblat\n"));
    for account in Account::each(Some(OTHERS)) {
        account.refuse(&key().restriction(FORCED), "no line of ~/.ssh/authorized_keys has the key");
    }
}

#[test]
fn a_freed_key_is_restricted_again_when_the_connection_ends() {
    let restricted = format!("{OTHERS}{FORCED},from=\"10.0.0.*\" {KEY}\nssh-rsa CCC you\n");
    for account in Account::each(Some(&restricted)) {
        let (child, mut said) = account.free();
        assert_eq!(account.keys(), format!("{OTHERS}from=\"10.0.0.*\" {KEY}\nssh-rsa CCC you\n"));
        // The agent dies: the target sees the end of the input.
        let ended = child.wait_with_output().expect("a shell");
        let mut line = String::new();
        said.read_line(&mut line).expect("a line");
        assert!(ended.status.success() && line.trim_end() == RESTORED, "{:?}: {ended:?}", account.shell);
        assert_eq!(account.keys(), restricted, "{:?}", account.shell);

        let (child, _said) = account.free();
        account.succeed(&key().restriction("restrict,command=\"new\""));
        account.succeed(&PublicKey::forgetting());
        let anew = account.keys();
        assert!(child.wait_with_output().expect("a shell").status.success());
        assert_eq!(account.keys(), anew, "what was restricted anew stays");
        account.assert_clean(&account.ssh());
    }
}

#[test]
fn a_write_that_fails_loses_no_line_and_frees_no_key() {
    // Just below a limit of 8 KiB that the new text is above.
    let line = format!("{FORCED} {KEY}\n");
    let mut others = String::new();
    while others.len() + line.len() < 8_100 {
        others.push_str("ssh-ed25519 AAAAelse somebody else's\n");
    }
    let long = PublicKey::parse(KEY).expect("a key");
    let options = format!("restrict,command=\"{}\"", "x".repeat(500));
    // A write that ends the command, and one that is refused, as on a full disk. Limits are in blocks of 512 bytes.
    for signal in ["", "trap '' XFSZ\n"] {
        for account in Account::each(Some(&format!("{others}{line}"))) {
            account.refuse(
                &format!("{signal}ulimit -f 16\n{}", long.restriction(&options)),
                "the new .ssh/authorized_keys aside",
            );
        }
        for account in Account::each(Some(&format!("{others}{}", "# ".repeat(60)))) {
            account
                .refuse(&format!("{signal}ulimit -f 16\n{}", key().addition()), "the new .ssh/authorized_keys aside");
        }
        // Nothing at all can be written.
        for account in Account::each(Some(&format!("{others}{line}"))) {
            account.refuse(&format!("{signal}ulimit -f 1\n{}", key().freeing()), "cannot copy");
        }
    }
}

#[test]
fn a_link_stays_one_and_mode_and_owner_and_list_stay() {
    for account in Account::each(None) {
        let folder = account.home.path().join("shared keys");
        let file = folder.join("k");
        fs::create_dir_all(&folder).expect("a folder");
        fs::create_dir(account.ssh()).expect("a folder");
        fs::write(&file, OTHERS).expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o440)).expect("a mode");
        symlink("../shared keys/k", account.file()).expect("a link");
        let group = fs::metadata(&file).expect("a file").gid();
        let states = [
            (key().addition(), format!("{OTHERS}{KEY}\n")),
            (key().restriction(FORCED), format!("{OTHERS}{FORCED} {KEY}\n")),
            (PublicKey::forgetting(), format!("{OTHERS}{FORCED} {KEY}\n")),
            (key().freeing(), format!("{OTHERS}{FORCED} {KEY}\n")),
        ];
        for (script, expected) in states {
            account.succeed(&script);
            assert_eq!(account.keys(), expected, "{:?}", account.shell);
            assert!(account.file().is_symlink(), "{:?}", account.shell);
            assert_eq!(
                (mode(&file), fs::metadata(&file).expect("a file").gid()),
                (0o440, group),
                "{:?}",
                account.shell
            );
        }
        account.assert_clean(&folder);

        fs::remove_file(&file).expect("an own file");
        account.succeed(&key().addition());
        assert_eq!(fs::read_to_string(&file).expect("a file"), format!("{KEY}\n"), "by a link to nothing");
        fs::hard_link(&file, folder.join("same")).expect("a second name");
        account.refuse(&key().restriction(FORCED), "hard links");
        fs::remove_dir_all(&folder).expect("an own folder");
        account.refuse(&key().addition(), "leads nowhere");
        fs::remove_file(account.file()).expect("a link");
        symlink("/dev/null", account.file()).expect("a link");
        account.refuse(&key().freeing(), "no regular file");
    }
    for account in Account::each(Some(OTHERS)).filter(|account| account.shell[0] != "busybox") {
        // An access control list that lets one more user read: version, then entries of tag, rights, id.
        let entries =
            [(1_u16, 6_u16, u32::MAX), (2, 4, 65_534), (4, 0, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)];
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            list.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
            list.extend(id.to_le_bytes());
        }
        let name = "system.posix_acl_access";
        match rustix::fs::setxattr(account.file(), name, &list, rustix::fs::XattrFlags::empty()) {
            Err(rustix::io::Errno::OPNOTSUPP) => return,
            set => set.expect("a list"),
        }
        account.succeed(&key().addition());
        let mut found = [0; 200];
        let length = rustix::fs::getxattr(account.file(), name, &mut found[..]).expect("it has a list");
        assert_eq!(found[..length], list, "{:?}", account.shell);
    }
}

#[test]
fn what_others_write_meanwhile_is_not_lost() {
    // Somebody else writes right after the file was read, before the new one takes its place.
    for account in Account::each(Some(OTHERS)) {
        let tools = account.home.path().join("tools");
        fs::create_dir(&tools).expect("a folder");
        let slow = "#!/bin/sh\n[ ! -e \"$HOME/once\" ] || { rm \"$HOME/once\"; echo 'ssh-rsa DDD late' >>\"$HOME/.ssh/authorized_keys\"; }\n\
                    exec /usr/bin/sync \"$@\"\n";
        fs::write(tools.join("sync"), slow).expect("a script");
        fs::set_permissions(tools.join("sync"), fs::Permissions::from_mode(0o755)).expect("a mode");
        fs::write(account.home.path().join("once"), "").expect("a file");
        let before = account.keys();
        let script = format!("PATH={}:$PATH\n{}", tools.display(), key().addition());
        let output = account.run(&script);
        assert!(!output.status.success(), "{:?}: {output:?}", account.shell);
        assert_eq!(account.keys(), format!("{before}ssh-rsa DDD late\n"));
        account.assert_clean(&account.ssh());
        account.succeed(&script);
        assert_eq!(account.keys(), format!("{before}ssh-rsa DDD late\n{KEY}\n"));
    }
    // Several masters enrol the account at once.
    for account in Account::each(None) {
        let lines: Vec<String> = (0..6).map(|number| format!("ssh-ed25519 AAAA{number} master{number}")).collect();
        let script = |line: &String| PublicKey::parse(line).expect("a key").addition();
        let running: Vec<Child> = lines.iter().map(|line| account.start(&script(line))).collect();
        for child in running {
            let output = child.wait_with_output().expect("a shell");
            assert!(output.status.success(), "{:?}: {output:?}", account.shell);
        }
        let keys = account.keys();
        assert!(lines.iter().all(|line| keys.contains(line)) && keys.lines().count() == 6, "{keys}");
    }
}

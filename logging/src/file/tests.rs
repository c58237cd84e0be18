//! The log in a place where others move, remove, replace and close what is there.

use super::*;

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("the log is text")
}

#[test]
fn a_full_disk_costs_lines_and_says_how_many_once_it_is_over() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let path = scratch.path().join("t.log");
    std::os::unix::fs::symlink("/dev/full", &path).expect("a disk that is always full");
    let controls = Arc::new(Controls::new(0, 3));
    let mut log = LogFile::open(&path, Arc::clone(&controls)).expect("it can be opened");
    for _ in 0..7 {
        log.write_all(b"lost\n").expect("nobody is held up");
    }
    fs::remove_file(&path).expect("healed");
    controls.generation.fetch_add(1, Ordering::AcqRel);
    log.write_all(b"kept\n").expect("nobody is held up");
    log.write_all(b"kept too\n").expect("nobody is held up");
    let text = read(&path);
    assert!(text.contains(" ERROR 7 lines are missing") && text.ends_with("\nkept\nkept too\n"), "{text}");
    assert_eq!(text.lines().count(), 4, "{text}");
}

#[test]
fn as_many_old_files_are_kept_as_told_and_a_lower_number_removes_the_rest() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let path = scratch.path().join("t.log");
    let controls = Arc::new(Controls::new(10, 3));
    let mut log = LogFile::open(&path, Arc::clone(&controls)).expect("it can be opened");
    for number in 0..9 {
        log.write_all(format!("line {number}\n").as_bytes()).expect("written");
    }
    let old = |number| numbered(&path, number);
    assert_eq!([read(&path), read(&old(1)), read(&old(3))], ["line 8\n", "line 7\n", "line 5\n"]);
    assert!(!old(4).exists());
    controls.keep.store(1, Ordering::Release);
    controls.generation.fetch_add(1, Ordering::AcqRel);
    log.flush().expect("woken by nothing");
    assert_eq!([read(&path), read(&old(1))], ["", "line 8\n"]);
    assert!(!old(2).exists() && !old(3).exists());
}

/// A log of two old files and a present one of one line, with whoever writes it.
fn log_with_old_files(path: &Path) -> (LogFile, Arc<Controls>) {
    let controls = Arc::new(Controls::new(0, 5));
    let mut log = LogFile::open(path, Arc::clone(&controls)).expect("it can be opened");
    for line in ["oldest\n", "old\n", "present\n"] {
        controls.generation.fetch_add(u64::from(line != "oldest\n"), Ordering::AcqRel);
        log.write_all(line.as_bytes()).expect("written");
    }
    assert_eq!([read(path), read(&numbered(path, 1)), read(&numbered(path, 2))], ["present\n", "old\n", "oldest\n"]);
    (log, controls)
}

#[test]
fn a_log_that_was_moved_goes_on_in_its_place_and_hup_leaves_the_old_files_to_the_mover() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    for goes_on_at_once in [false, true] {
        let path = scratch.path().join(format!("{goes_on_at_once}.log"));
        let (mut log, controls) = log_with_old_files(&path);
        // As logrotate does it, the old files first.
        fs::rename(numbered(&path, 1), numbered(&path, 2)).expect("a move");
        fs::rename(&path, numbered(&path, 1)).expect("a move");
        if goes_on_at_once {
            log.write_all(b"before HUP\n").expect("written");
        }
        controls.generation.fetch_add(1, Ordering::AcqRel);
        log.flush().expect("woken");
        log.write_all(b"after HUP\n").expect("written");
        assert_eq!([read(&numbered(&path, 1)), read(&numbered(&path, 2))], ["present\n", "old\n"]);
        assert!(!numbered(&path, 3).exists(), "the mover's files stay where they are");
        let text = read(&path);
        assert!(text.contains(" WARN  another process moved the log; its earlier lines are in"), "{text}");
        assert_eq!((text.contains("before HUP"), text.ends_with("after HUP\n")), (goes_on_at_once, true), "{text}");
        assert_eq!(text.matches("another process").count(), 1, "{text}");
        // The next HUP is an ordinary one again.
        controls.generation.fetch_add(1, Ordering::AcqRel);
        log.flush().expect("woken");
        assert_eq!([read(&path), read(&numbered(&path, 2))], ["", "present\n"]);
    }
}

#[test]
fn a_log_that_was_removed_replaced_or_emptied_or_lost_its_directory_goes_on_and_says_so() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let home = scratch.path();
    let path = home.join("log/t.log");
    let mut log = LogFile::open(&path, Arc::new(Controls::new(0, 3))).expect("it can be opened");
    let mut goes_on = |what: &str, words: &str| {
        log.write_all(format!("after {what}\n").as_bytes()).expect("written");
        let text = read(&path);
        assert!(text.contains(words) && text.ends_with(&format!("\nafter {what}\n")), "{what}: {text}");
        assert!(!text.contains('\0') && text.matches("another process").count() == 1, "{what}: {text}");
    };
    fs::remove_file(&path).expect("removed");
    goes_on("removing", "removed the log; its earlier lines are lost");
    fs::write(home.join("other"), "").expect("another file");
    fs::rename(home.join("other"), &path).expect("replaced");
    goes_on("replacing", "removed the log");
    fs::rename(home.join("log"), home.join("log.old")).expect("moved");
    goes_on("moving the directory", "moved the log");
    fs::remove_dir_all(home.join("log")).expect("removed");
    goes_on("removing the directory", "removed the log");
    File::options().write(true).open(&path).and_then(|file| file.set_len(0)).expect("emptied");
    goes_on("emptying", "emptied the log; its earlier lines are lost");
}

/// A log in a directory of its own, where it can be opened.
fn log_in(home: &Path) -> (LogFile, PathBuf, Arc<Controls>) {
    let (path, controls) = (home.join("log/t.log"), Arc::new(Controls::new(0, 3)));
    (LogFile::open(&path, Arc::clone(&controls)).expect("it can be opened"), path, controls)
}

#[test]
fn whatever_stands_in_the_log_s_place_is_named_and_lines_go_on_where_they_went_before() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let home = scratch.path();
    let (mut log, path, controls) = log_in(home);
    let before = home.join("before");
    let mut tell = |line: &str| log.write_all(format!("{line}\n").as_bytes()).expect("nobody is held up");
    let fifo = |path: &Path| {
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).expect("a pipe");
    };
    let away = home.join("away/t.log");
    let folder = |path: &Path| fs::create_dir(path).expect("a directory");
    let link = |path: &Path| std::os::unix::fs::symlink(&away, path).expect("a link");
    type Way<'a> = &'a dyn Fn(&Path);
    let ways: [(&str, Way<'_>); 3] =
        [("Is a directory", &folder), ("No such device or address", &fifo), ("No such file", &link)];
    for (why, put) in ways {
        tell("in its place");
        assert_eq!(controls.trouble(), None);
        fs::rename(&path, &before).expect("moved");
        put(&path);
        tell(why);
        let trouble = controls.trouble().expect("it is named");
        assert!(trouble.text.starts_with("cannot open the log ") && trouble.text.contains(why), "{trouble:?}");
        assert!(try_open(&path).expect_err("it cannot be opened").to_string().contains(why));
        tell("once more");
        assert_eq!(controls.trouble(), Some(trouble), "it stands since it began");
        assert!(read(&before).ends_with(&format!("{why}\nonce more\n")), "{}", read(&before));
        let is_folder = fs::symlink_metadata(&path).expect("something").is_dir();
        if is_folder { fs::remove_dir(&path) } else { fs::remove_file(&path) }.expect("healed");
        try_open(&path).expect("its directory can be written");
    }
    tell("in its place");
    assert_eq!(controls.trouble(), None);
    assert!(read(&path).ends_with("in its place\n") && !read(&path).contains("missing"), "{}", read(&path));
}

#[test]
fn what_no_file_takes_goes_to_standard_error_in_bounds_and_is_counted() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let (mut log, path, controls) = log_in(scratch.path());
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("a directory");
    let line = format!("{}\n", "x".repeat(100_000));
    let lines = MOST_ASIDE / LONGEST_AT_ONCE + 10;
    // Not on a pipe that nobody reads: as much as it holds has room.
    (0..lines).for_each(|_| log.write_all(line.as_bytes()).expect("nobody is held up"));
    let trouble = controls.trouble().expect("it is named");
    assert!(
        trouble.text.starts_with("cannot write the log ") && trouble.text.contains("standard error"),
        "{trouble:?}"
    );
    assert!(log.aside_bytes <= MOST_ASIDE && log.missing == lines as u64);
    fs::remove_dir(&path).expect("healed");
    log.flush().expect("woken by nothing");
    let text = read(&path);
    assert!(text.contains(&format!("{lines} lines are missing")), "{text}");
    assert_eq!((controls.trouble(), log.missing, log.aside_bytes), (None, 0, 0));
}

#[test]
fn a_log_that_cannot_be_rolled_goes_on_and_says_so() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let (mut log, path, controls) = log_in(scratch.path());
    controls.max.store(10, Ordering::Release);
    fs::create_dir_all(numbered(&path, 1).join("not empty")).expect("a directory");
    controls.keep.store(1, Ordering::Release);
    ["first line\n", "second line\n"].iter().for_each(|line| log.write_all(line.as_bytes()).expect("written"));
    assert_eq!(read(&path), "first line\nsecond line\n");
    let trouble = controls.trouble().expect("it is named");
    assert!(trouble.text.starts_with("cannot roll the log "), "{trouble:?}");
    fs::remove_dir_all(numbered(&path, 1)).expect("healed");
    log.write_all(b"third line\n").expect("written");
    assert_eq!((read(&path).as_str(), controls.trouble()), ("third line\n", None));
}

#[test]
fn lines_go_on_into_the_moved_file_while_there_is_no_place_for_a_new_one() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let (home, moved) = (scratch.path().join("home"), scratch.path().join("moved"));
    let path = home.join("log/t.log");
    let mut log = LogFile::open(&path, Arc::new(Controls::new(0, 3))).expect("it can be opened");
    fs::rename(&home, &moved).expect("moved with all that is in it");
    log.write_all(b"kept\n").expect("nobody is held up");
    assert_eq!(read(&moved.join("log/t.log")), "kept\n");
    assert!(!home.exists(), "a home tree is not made for the log's sake");
    fs::remove_dir_all(&moved).expect("removed");
    log.write_all(b"lost\n").expect("nobody is held up");
    fs::create_dir(&home).expect("healed");
    log.write_all(b"kept too\n").expect("nobody is held up");
    assert!(read(&path).contains("1 lines are missing") && read(&path).ends_with("kept too\n"), "{}", read(&path));
}

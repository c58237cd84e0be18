//! What is wrong with a file: everything at once, each with its place.

use std::fmt;
use std::io;
use std::path::PathBuf;

use blat_domain::util::text::printable;

use crate::database::hides;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The file, relative to the home tree where it lies inside.
    pub path: PathBuf,
    /// Where in the file; none where the file as a whole is meant.
    pub place: Option<Place>,
    /// What is wrong, fit for printing.
    pub message: String,
    /// What would be right.
    pub expected: Option<String>,
    /// What is shown of the line it stands on, fit for printing: the part around the place, where the line is long.
    pub line_text: String,
    /// How many characters of `line_text` stand before the place.
    pub indent: usize,
    /// Whether the system did not let the file be read: what it says may well be right.
    pub is_unread: bool,
}

/// The most complaints that are kept of one configuration: nobody reads more, and they travel in one line to `blat`.
const MOST: usize = 100;
/// The longest line that is shown whole, in characters.
const WIDEST: usize = 160;

impl Complaint {
    /// A complaint about a stretch of `line`.
    pub(crate) fn at(path: PathBuf, place: Place, line: &str, message: String, expected: Option<String>) -> Self {
        let line = &without_passwords(line);
        let message: String = without_passwords_in_text(&message.chars().collect::<Vec<_>>()).into_iter().collect();
        let beyond = place.column.saturating_add(place.length.min(WIDEST / 2)) > WIDEST;
        let from = if beyond { place.column.saturating_sub(WIDEST / 2) } else { 0 };
        let mut shown: Vec<char> = line.chars().skip(from).take(WIDEST + 1).map(one_column).collect();
        if shown.len() > WIDEST {
            shown[WIDEST] = '…';
        }
        if let (true, Some(first)) = (from > 0, shown.first_mut()) {
            *first = '…';
        }
        let indent = place.column.saturating_sub(1).saturating_sub(from).min(shown.len());
        Self {
            path,
            place: Some(place),
            message,
            expected,
            line_text: shown.into_iter().collect(),
            indent,
            is_unread: false,
        }
    }

    /// A complaint about a file as a whole.
    pub(crate) fn whole(path: PathBuf, message: String) -> Self {
        Self { path, place: None, message, expected: None, line_text: String::new(), indent: 0, is_unread: false }
    }

    /// A complaint about a file that cannot be read.
    pub(crate) fn unread(path: PathBuf, error: &io::Error) -> Self {
        // What is no text, or too long, was read.
        Self {
            is_unread: error.raw_os_error().is_some(),
            ..Self::whole(path, format!("cannot read the file: {error}"))
        }
    }
}

/// Parts of the names of keys and parameters whose values are nobody's business; such names as a whole; and their ends.
const SECRET: [&str; 7] = ["pass", "pwd", "psw", "secret", "token", "access_key", "credential"];
const SECRET_WHOLE: [&str; 3] = ["pw", "key", "apikey"];
const SECRET_ENDS: [&str; 2] = ["_key", "-key"];
/// What stands at the ends of a name: the signs of a mapping, of a list and of a URL.
const AROUND_NAMES: &str = "{}[],:;?& \t\"'";

/// Whether a key or parameter of this name may hold a secret. One that names a file holds only the way to it.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_whole = || SECRET_WHOLE.contains(&name.trim_start_matches('-'));
    let holds = SECRET.iter().any(|word| name.contains(word)) || SECRET_ENDS.iter().any(|end| name.ends_with(end));
    (holds || is_whole()) && !name.ends_with("_file") && !name.starts_with("kms_key")
}

/// The line with stars in place of all that it says.
pub(crate) fn without_words(line: &str) -> String {
    let said = line.find(|c: char| !c.is_whitespace() && c != '-').unwrap_or(line.len());
    line[..said].chars().chain(line[said..].chars().map(|_| '*')).collect()
}

/// The name that ends before this place.
fn name_before(chars: &[char], end: usize) -> String {
    let before = chars[..end].iter().rev().skip_while(|c| " \t\"'".contains(**c));
    let name: String = before.take_while(|c| !AROUND_NAMES.contains(**c)).collect();
    // It was collected from its end.
    name.chars().rev().collect()
}

/// The line with stars in place of what may be a secret: a refused one must not come to light by its refusal.
fn without_passwords(line: &str) -> String {
    let chars: Vec<char> = line.chars().collect();
    let mut shown = without_passwords_in_text(&chars);
    // A key that should not be here at all, `secret_access_key: …`, also among others in one line: `{postgres: …, password: …}`. What a command's
    // arguments mean is its own matter.
    for colon in (0..chars.len()).filter(|index| chars[*index] == ':') {
        let name = name_before(&chars, colon);
        if is_secret(&name) || name == "command" || hides(&name, &line_from(&chars, colon + 1)) {
            shown[colon + 1..].fill('*');
        }
    }
    shown.into_iter().collect()
}

fn line_from(chars: &[char], from: usize) -> String {
    chars[from..].iter().collect()
}

/// The text with stars in place of what may be a secret in an address or a parameter.
fn without_passwords_in_text(chars: &[char]) -> Vec<char> {
    let mut shown = chars.to_vec();
    let scheme = chars.windows(3).position(|three| three == [':', '/', '/']);
    // Without a scheme, `blat:PASSWORD@host`: a key has a blank behind its colon.
    let is_colon = |index: &usize| match chars[*index] {
        ':' => scheme.is_some() || chars.get(index + 1).is_some_and(|next| !next.is_whitespace()),
        _ => chars[*index..].iter().take(3).collect::<String>().eq_ignore_ascii_case("%3a"),
    };
    if let Some(at) = chars.iter().rposition(|c| *c == '@')
        && let Some(colon) = (scheme.map_or(0, |scheme| scheme + 3)..at).find(is_colon)
        // A list of addresses with ports, `["blat@a:22", blat@b]`, has no password.
        && (scheme.is_some() || !(chars[..colon].contains(&'@') && chars[colon..at].contains(&'"')))
    {
        shown[colon + 1..at].fill('*');
    }
    let ends = |ends: &str, from: usize| (from..chars.len()).find(|index| ends.contains(chars[*index]));
    let end_of = |from: usize| match chars.get(from) {
        // A quoted value, `password='a b'`, ends with its sign.
        Some(quote @ ('\'' | '"')) => ends(&quote.to_string(), from + 1).unwrap_or(chars.len()),
        _ => ends("& \"'", from).unwrap_or(chars.len()),
    };
    // A parameter, `password=…`: its name is what stands before the sign. Users have passwords behind a colon.
    for equals in (0..chars.len()).filter(|index| chars[*index] == '=') {
        let name = name_before(chars, equals);
        if is_secret(&name) || scheme.is_some() && name.to_ascii_lowercase().contains("user") {
            let from = (equals + 1..chars.len()).find(|index| chars[*index] != ' ').unwrap_or(chars.len());
            shown[from..end_of(from)].fill('*');
        }
    }
    // What stands behind the sign of a fragment means nothing to a server. One behind a blank begins a comment.
    for sign in (scheme.unwrap_or(chars.len())..chars.len()).filter(|at| chars[*at] == '#' && chars[at - 1] != ' ') {
        shown[sign + 1..end_of(sign + 1)].fill('*');
    }
    shown
}

/// Each character stays one column wide, so that the caret points where it should; none may move a terminal's cursor.
fn one_column(c: char) -> char {
    match c {
        '\t' => ' ',
        c if !printable(&c.to_string()).starts_with(c) => '\u{fffd}',
        c => c,
    }
}

/// A stretch of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How many characters; at least 1.
    pub length: usize,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        let path = printable(&self.path.display().to_string());
        match self.place {
            None => write!(f, "\n  --> {path}")?,
            Some(Place { line, column, length }) => {
                let number = line.to_string();
                let margin = " ".repeat(number.len());
                let before = " ".repeat(self.indent);
                let room = self.line_text.chars().count().saturating_sub(self.indent).max(1);
                let carets = "^".repeat(length.clamp(1, room));
                write!(f, "\n {margin}--> {path}:{line}:{column}")?;
                write!(f, "\n {margin} |\n {number} | {}\n {margin} | {before}{carets}", self.line_text)?;
            }
        }
        match &self.expected {
            Some(expected) => write!(f, "\n   = expected {expected}"),
            None => Ok(()),
        }
    }
}

/// All that is wrong with a configuration, up to a hundred complaints. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaints {
    list: Vec<Complaint>,
    /// How many more there were.
    more: usize,
}

impl Complaints {
    /// None where there is nothing to complain about.
    pub(crate) fn of(mut list: Vec<Complaint>) -> Option<Self> {
        list.sort_by(|a, b| (&a.path, a.place).cmp(&(&b.path, b.place)));
        list.dedup();
        let more = list.len().saturating_sub(MOST);
        list.truncate(MOST);
        (!list.is_empty()).then_some(Self { list, more })
    }

    /// Whether the system did not let one of the files be read, as one that is out of handles: nobody knows then what is right and what is wrong.
    pub fn is_unread(&self) -> bool {
        self.list.iter().any(|complaint| complaint.is_unread)
    }

    /// What all of it comes to, behind "the config".
    pub fn verdict(&self) -> &'static str {
        if self.is_unread() { "cannot be read" } else { "is not valid" }
    }

    /// Each by itself, in the order of the file.
    pub fn list(&self) -> &[Complaint] {
        &self.list
    }
}

impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, complaint) in self.list.iter().enumerate() {
            write!(f, "{}{complaint}", if index > 0 { "\n\n" } else { "" })?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "\n\nerror: and {more} more like these"),
        }
    }
}

impl std::error::Error for Complaints {}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(line: &str, column: usize, length: usize) -> Complaint {
        Complaint::at("x.conf".into(), Place { line: 1, column, length }, line, "odd".into(), None)
    }

    #[test]
    fn the_caret_stands_below_its_word_in_lines_of_any_length() {
        for column in [1, 5, 159, 160, 161, 200, 5_000] {
            let line = format!("{}WORD {}", ".".repeat(column - 1), ".".repeat(300));
            let shown = about(&line, column, 4).to_string();
            let lines: Vec<&str> = shown.lines().collect();
            let at = lines[4].find('^').expect("a caret");
            let below: String = lines[3].chars().skip(at).take(4).collect();
            assert_eq!(below, "WORD"[..4.min(below.len())], "{shown}");
            assert!(lines[3].chars().count() < 200 && lines[4].len() < 200, "{shown}");
        }
    }

    #[test]
    fn a_place_outside_its_line_is_no_panic() {
        for (line, column) in [("", 1), ("", 900), ("abc", 900), ("é", 0)] {
            assert!(about(line, column, usize::MAX).to_string().contains('^'));
        }
    }

    #[test]
    fn nothing_in_a_line_moves_the_cursor() {
        let shown = about("a\u{1b}[2J\u{202e}b\tc", 9, 1).to_string();
        assert!(!shown.contains(['\u{1b}', '\u{202e}', '\t']), "{shown:?}");
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let flood = (0..250).map(|n| Complaint::whole("x.conf".into(), format!("number {n}"))).collect();
        let complaints = Complaints::of(flood).expect("many");
        assert_eq!(complaints.list().len(), 100);
        assert!(complaints.to_string().ends_with("error: and 150 more like these"), "{complaints}");
    }

    #[test]
    fn a_password_in_a_line_is_never_shown() {
        for line in [
            "postgres: postgres://blat:secret@db/rm",
            "postgres: 'postgres://blat:p@secret:/x@db/rm' # ü",
            "mysql: \"mysql://db/rm?ssl-mode=required&PassWord=secret\"",
            "postgres: postgres://db/rm?sslpassword=secret, queries: 5",
            "  AWS_Access_Key_id: secret",
            "release_manager: {postgres: 'postgres://blat@db/rm', password: 'secret, }x'}",
            "release_manager: {postgres: 'postgres://blat@db/rm', \"passwd\" : secret}",
            "s3: {bucket: b, aws_access_key_id: secret}",
            "s3: {session_token: [secret]}",
            "s3: {endpoint: 'https://s3.example.com/?X-Token=secret'}",
            "mysql: mysql://db/rm?user=blat:secret",
            "mysql: mysql:///rm#blat:secret",
            "mysql: mysql://blat%3Asecret@db/rm",
            "postgres: \"user=blat password=secret host=h\"",
            "postgres: \"user=blat password='a secret' host=h\"",
            "postgres: \"user=blat password = secret host=h\"",
            "mysql: \"blat:secret@h/rm\"",
            "mysql: 'blat%3asecret@h/rm'",
            "postgres: 'postgres//blat:secret@h/rm'",
            "mysql: \"h/rm?pw=secret\"",
            "mysql: mysql://h/rm?pw=secret",
            "psw: secret",
            "s3: {bucket: b, key: secret}",
            "host: u:secret@x",
            "{\"host\":\"u:secret@x\"}",
            "release_manager: {command: [/bin/x, --password=secret]}",
            "  command: [/bin/x, -p, secret]",
            "  - --password=secret",
            "  - --key=a,secret",
            "password-hash: secret",
            "mysql: \"blat/secret@h/rm\"",
            "mysql: \"-ublat -psecret -hh rm\"",
            "  release_manager: {mysql: \"mysql --user blat --password secret\", mode: strict}",
            "postgres: 'postgres://h/rm?sslmode=require;password:secret'",
            "postgres: secret",
        ] {
            for column in 1..line.len() {
                assert!(!about(line, column, 3).to_string().contains("secret"), "{line}");
            }
        }
        for harmless in [
            "postgres: postgres://blat@db:5432/rm?sslmode=require",
            "release_manager: {postgres: 'postgres://blat@db/rm', password_file: /home/a/pw} # ours",
            "  known_hosts: /a#b",
            "  include: [\"core@1.0\", \"tools@1.1\"] # since 10:30",
            "  via: u@jump:22",
            "  ssh: {options: [Port=22, User=blat]}",
            "  key_file: /home/a/.ssh/id",
        ] {
            assert!(about(harmless, 1, 1).to_string().contains(harmless), "{harmless}");
        }
    }

    #[test]
    fn a_message_that_quotes_a_url_shows_no_password_either() {
        let place = Place { line: 1, column: 1, length: 1 };
        for text in ["https://s3.example.com/?secret=HEMLIG", "https://s3.example.com/#HEMLIG", "https://a:HEMLIG@b/c"]
        {
            let message = format!("\"{text}\" is not valid here");
            let shown = Complaint::at("x.conf".into(), place, "", message, None).to_string();
            assert!(!shown.contains("HEMLIG") && shown.contains("is not valid here"), "{shown}");
        }
    }
}

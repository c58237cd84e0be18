//! Changes of `~/.ssh/authorized_keys` on a target, as scripts for its `/bin/sh`.
//!
//! The file lets other people in too, so each change either succeeds as a whole or leaves everything as it was. The new text is written aside in one
//! go, compared with what it has to be, flushed, and renamed over the old file; that the old one is still what was read is looked at right before.
//! The file keeps its mode, owner, group and access control list, and a link to it stays a link: where that cannot be, nothing is changed.

use anyhow::Context as _;

use super::AWAIT_LOCK;
use crate::targets::host::install::shell_word;

/// What the script that frees a key prints once it has done so.
pub(super) const FREED: &str = "# blat freed";

/// What it prints at its end where the old file is back.
pub(super) const RESTORED: &str = "# blat restored";

/// The answer of a script that has nothing else to say.
const ANSWER: &str = "echo '# blat 1'\necho '# end 0'";

/// The words of a public key that a script needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct PublicKey<'a> {
    line: &'a str,
    kind: &'a str,
    key: &'a str,
}

impl<'a> PublicKey<'a> {
    /// Reads one line of the form `KIND KEY [COMMENT]`.
    ///
    /// # Errors
    /// The line has no two words.
    pub(super) fn parse(line: &'a str) -> anyhow::Result<Self> {
        let mut words = line.split(' ');
        let kind_and_key = words.next().zip(words.next());
        let (kind, key) = kind_and_key.context("the public key has no two words")?;
        Ok(Self { line, kind, key })
    }

    /// Adds a line with the key unless the file has one.
    pub(super) fn addition(self) -> String {
        let find = format!(
            r#"if [ -e "$file" ]; then
    key={} awk '!/^[ \t]*#/ && index($0, ENVIRON["key"]) {{ found = 1 }} END {{ exit !found }}' "$file"
    case $? in 0) exit 0 ;; 1) ;; *) die 'cannot read ~/.ssh/authorized_keys' ;; esac
fi
replace"#,
            shell_word(self.key)
        );
        let fresh = format!("line={} awk '{{ print }} END {{ print ENVIRON[\"line\"] }}'", shell_word(self.line));
        script(&fresh, &find)
    }

    /// Makes the key's line one without a forced command, prints [`FREED`], and waits for the end of its input. Unless somebody changed the file
    /// meanwhile, the old one then comes back: whoever dies in between leaves no key behind that can do everything.
    pub(super) fn freeing(self) -> String {
        let body = format!(
            r#"keep=$file.blat-restricted.$$
replace
exec 9>&-
trap '' HUP INT TERM PIPE
echo '{FREED}'
cat >/dev/null
die() {{ echo "$*; the key is not restricted" >&2; exit 1; }}
lock
if fresh <"$keep" | cmp -s - "$file"; then
    put_back
    echo '{RESTORED}'
else
    rm -f "$keep"
fi"#
        );
        script(&self.with_options("", "print ENVIRON[\"public\"]"), &body)
    }

    /// Puts the options before the key in its first line and takes its other lines away. Of the options that were there, only those stay that say from
    /// where and until when the key may be used. The old file is kept beside the new one.
    pub(super) fn restriction(self, options: &str) -> String {
        script(&self.with_options(options, "exit 3"), &format!("keep=$file.blat-before\nreplace\n{ANSWER}"))
    }

    /// Brings back what [`Self::restriction`] kept, unless somebody changed the file since.
    pub(super) fn undoing(self, options: &str) -> String {
        let body = format!(
            r#"keep=$file.blat-before
fresh <"$keep" | cmp -s - "$file" || die "somebody else changed $file meanwhile; the one before it is $keep"
put_back
{ANSWER}"#
        );
        script(&self.with_options(options, "exit 3"), &body)
    }

    /// Removes what [`Self::restriction`] kept.
    pub(super) fn forgetting() -> String {
        script("cat", &format!("rm -f \"$file.blat-before\" || exit 1\n{ANSWER}"))
    }

    /// A command that reads the old text and writes the new one. `missing` is what awk does where no line has the key.
    fn with_options(self, options: &str, missing: &str) -> String {
        format!(
            r#"options={options} kind={kind} key={key} public={public} awk '
    /^[ \t]*#/ {{ print; next }}
    {{
        at = index($0, ENVIRON["key"])
        before = substr($0, 1, at - 1)
        if (!at || substr($0, at + length(ENVIRON["key"]), 1) !~ /^[ \t\r]?$/ || !sub("(^|[ \t])" ENVIRON["kind"] "[ \t]+$", "", before)) {{
            print
            next
        }}
        if (done) next
        done = 1
        before = "," before
        line = ENVIRON["options"]
        if (match(tolower(before), /,from="[^"]*"/)) line = line substr(before, RSTART, RLENGTH)
        if (match(tolower(before), /,expiry-time="[^"]*"/)) line = line substr(before, RSTART, RLENGTH)
        sub(/^,/, "", line)
        print line (line == "" ? "" : " ") ENVIRON["kind"] " " substr($0, at)
    }}
    END {{ if (!done) {missing} }}'"#,
            options = shell_word(options),
            kind = shell_word(self.kind),
            key = shell_word(self.key),
            public = shell_word(self.line),
        )
    }
}

/// A script around `body`. `fresh` makes the new text of the old. All of it is read before any of it runs: it comes by standard input, which commands of
/// it read too.
fn script(fresh: &str, body: &str) -> String {
    format!("{{\nfresh() {{\n{fresh}\n}}\n{AWAIT_LOCK}{COMMON}{body}\nexit 0\n}}\n")
}

/// Surroundings, and the functions of every script. `cp -p` carries mode, owner and access control list over; what it could not, `ls` shows.
const COMMON: &str = r##"set -u
unset CDPATH
LC_ALL=C
PATH=${PATH:+$PATH:}/usr/local/bin:/usr/bin:/bin
export LC_ALL PATH
umask 077
keep=
die() { echo "$*; nothing is changed" >&2; exit 1; }
flush() {
    sync "$1" 2>/dev/null && return 0
    case $(sync --help 2>&1) in *FILE*) return 1 ;; esac
    sync
}
lock() {
    command -v flock >/dev/null 2>&1 || return 0
    { true >>.ssh/blat.lock; } 2>/dev/null || die 'cannot make a file in ~/.ssh; look at its owner, its mode and the space on its disk'
    exec 9>>.ssh/blat.lock
    await_lock '~/.ssh/authorized_keys'
}
facts() {
    # A group that may do no more than everybody says nothing.
    ls -ldn "$1" | awk '{ print $1, $2, $3, $1 !~ /[+]/ && substr($1, 5, 3) == substr($1, 8, 3) ? "-" : $4; exit }'
}
replace() {
    old=$file.blat-old.$$
    new=$file.blat-new.$$
    trap 'rm -f "$old" "$new"' 0
    trap 'exit 1' HUP INT TERM
    there=
    [ ! -e "$file" ] || there=yes
    if [ -n "$there" ]; then
        [ -f "$file" ] || die "$file is no regular file"
        { cp -p "$file" "$old" && cp -p "$file" "$new"; } || die "cannot copy $file in its directory"
        [ -w "$new" ] || chmod u+w "$new"
    else
        { : >"$old" && : >"$new"; } || die "cannot make a file beside $file"
    fi
    fresh <"$old" >"$new"
    case $? in
    0) ;;
    3) die 'no line of ~/.ssh/authorized_keys has the key' ;;
    *) die "cannot write the new $file aside" ;;
    esac
    fresh <"$old" | cmp -s - "$new" || die "cannot write the new $file aside; make space on its disk"
    if [ -n "$there" ]; then
        [ -w "$old" ] || chmod u-w "$new"
        [ "$(facts "$file")" = "$(facts "$new")" ] && [ "$(facts "$file")" = "$(facts "$old")" ] ||
            die "the new $file would not keep the owner, the group, the mode or the hard links of the old one"
    fi
    flush "$new" || die "the disk reports an error for the new $file"
    [ -z "$keep" ] || cp -p "$old" "$keep" || { rm -f "$keep"; die "cannot keep the old $file"; }
    if [ -z "$there" ]; then
        ln "$new" "$file"
    else
        cmp -s "$file" "$old" && mv -f "$new" "$file"
    fi || { [ -z "$keep" ] || rm -f "$keep"; die "cannot replace $file, or somebody else changed it meanwhile; try again"; }
    rm -f "$old" "$new"
    trap - 0 HUP INT TERM
    flush "${file%/*}" || { echo "the disk reports an error for ${file%/*}; $file is changed" >&2; exit 1; }
}
put_back() {
    mv -f "$keep" "$file" && flush "${file%/*}" || { echo "cannot put $keep back as $file; do it by hand" >&2; exit 1; }
}
cd || die 'cannot enter the home directory'
mkdir -p .ssh || die 'cannot make ~/.ssh'
file=.ssh/authorized_keys
if [ -L "$file" ]; then
    file=$(readlink -f "$file") && [ -n "$file" ] || die '~/.ssh/authorized_keys is a link that leads nowhere'
fi
lock
for left in "$file".blat-*.[0-9]*; do
    kill -0 "${left##*.}" 2>/dev/null || rm -f "$left"
done
"##;

#[cfg(test)]
mod tests;

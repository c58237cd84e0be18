//! Limits that a system sets to an account, recognised by what its tools say, and named so that an operator knows which one to raise.

/// A limit of the target's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The length of a file.
    FileSize,
    /// The space that the account may take on a disk.
    Quota,
    /// How many processes and threads the account may have.
    Processes,
    /// How many files a process may have open.
    OpenFiles,
    /// How much memory a process may have.
    Memory,
    /// How long a process may use the processor.
    ProcessorTime,
}

/// What tools, shells and systems say where they run into one.
const SIGNS: [(&str, Limit); 18] = [
    ("ile too large", Limit::FileSize),
    ("ilesize limit exceeded", Limit::FileSize),
    ("ile size limit exceeded", Limit::FileSize),
    ("uota exceeded", Limit::Quota),
    ("annot fork", Limit::Processes),
    ("an't fork", Limit::Processes),
    ("fork failed", Limit::Processes),
    ("fork: ", Limit::Processes),
    ("nable to fork", Limit::Processes),
    ("o more processes", Limit::Processes),
    ("annot create child process", Limit::Processes),
    ("starting a thread failed", Limit::Processes),
    ("oo many open files", Limit::OpenFiles),
    ("annot allocate memory", Limit::Memory),
    ("emory exhausted", Limit::Memory),
    ("ut of memory", Limit::Memory),
    ("CPU time limit exceeded", Limit::ProcessorTime),
    ("Cputime limit exceeded", Limit::ProcessorTime),
];

impl Limit {
    /// The limit that a text speaks of, if it speaks of any.
    pub fn told_by(text: &str) -> Option<Self> {
        SIGNS.iter().find(|(sign, _)| text.contains(sign)).map(|(_, limit)| *limit)
    }

    /// What it is, and what to do about it. The target's scripts use the same words.
    pub fn words(self) -> &'static str {
        match self {
            Self::FileSize => {
                "the target's account, or its file system, takes no file that large (ulimit -f); raise that limit"
            }
            Self::Quota => "the disk quota of the target's account is used up; make space in it, or raise it",
            Self::Processes => {
                "the target's account may not start more processes (ulimit -u); raise that limit, or end some"
            }
            Self::OpenFiles => "the target's account may not open more files (ulimit -n); raise that limit",
            Self::Memory => {
                "the target's account gets no more memory (ulimit -v, or what the host has); raise that limit"
            }
            Self::ProcessorTime => "the target's account may not use more processor time (ulimit -t); raise that limit",
        }
    }
}

/// What a target said, with the limit named that it speaks of, unless it names that itself.
pub fn named(text: String) -> String {
    match Limit::told_by(&text) {
        Some(limit) if !text.contains(limit.words()) => format!("{text}; {}", limit.words()),
        Some(_) | None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_and_tool_that_runs_into_a_limit_is_understood() {
        for (text, limit) in [
            ("tar: ./a/1/big: Cannot write: File too large", Limit::FileSize),
            ("File size limit exceeded (core dumped)", Limit::FileSize),
            ("cat: write error: File too large", Limit::FileSize),
            ("tar: ./a/1/b: Cannot open: Disk quota exceeded", Limit::Quota),
            ("writing \"b\" failed: Quota exceeded (os error 122)", Limit::Quota),
            ("receive_package: 46: Cannot fork", Limit::Processes),
            ("bash: fork: retry: Resource temporarily unavailable", Limit::Processes),
            ("sh: can't fork: Resource temporarily unavailable", Limit::Processes),
            ("zsh:1: fork failed: resource temporarily unavailable", Limit::Processes),
            ("csh: No more processes.", Limit::Processes),
            ("xargs: cannot fork", Limit::Processes),
            ("find: a: Too many open files", Limit::OpenFiles),
            ("zstd: error 11 : Allocation error : not enough memory: Cannot allocate memory", Limit::Memory),
            ("sort: memory exhausted", Limit::Memory),
            ("CPU time limit exceeded", Limit::ProcessorTime),
        ] {
            assert_eq!(Limit::told_by(text), Some(limit), "{text}");
            let named_once = named(text.to_owned());
            assert!(named_once.starts_with(text) && named_once.ends_with(limit.words()), "{named_once}");
            assert_eq!(named(named_once.clone()), named_once, "it is named once");
        }
        for text in [
            "tar: ./a: Cannot write: No space left on device",
            "Permission denied",
            "flock: Resource temporarily unavailable",
            "",
        ] {
            assert_eq!(named(text.to_owned()), text);
        }
    }
}

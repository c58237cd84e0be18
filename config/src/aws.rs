//! The files of the AWS tools, which the agent of a bucket obeys: they name commands that it runs, and whom it takes for the server. So they
//! are judged like the home tree's own.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::trust::{self, Distrust};

/// Variables that name such files, beside the two of the profiles.
const OTHERS: [&str; 3] = ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_CA_BUNDLE"];

/// Where the profiles' credentials are.
pub fn credentials_file() -> PathBuf {
    named("AWS_SHARED_CREDENTIALS_FILE").unwrap_or_else(|| own_folder().join("credentials"))
}

/// Where the profiles' other settings are.
pub fn config_file() -> PathBuf {
    named("AWS_CONFIG_FILE").unwrap_or_else(|| own_folder().join("config"))
}

/// The file that the environment names by this variable.
pub fn named(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn own_folder() -> PathBuf {
    std::env::home_dir().unwrap_or_default().join(".aws")
}

/// Opens such a file; none where there is none, or where `/dev/null` stands for none.
///
/// # Errors
/// Where anybody but root and whoever runs this may write it or anything on the way to it, or where it is no regular file.
pub fn open(path: &Path) -> Result<Option<File>, Distrust> {
    if path == Path::new("/dev/null") {
        return Ok(None);
    }
    match trust::open(Path::new("/"), &std::path::absolute(path)?) {
        Err(why) if why.is_absence() => Ok(None),
        opened => opened.map(Some),
    }
}

/// What is wrong with those that the environment leads to. What is missing or cannot be looked at is for whoever uses it.
pub(crate) fn distrusted() -> Vec<(PathBuf, Distrust)> {
    let all = [credentials_file(), config_file()].into_iter().chain(OTHERS.into_iter().filter_map(named));
    let open_to_others = |path: PathBuf| match open(&path) {
        Err(why @ Distrust::OpenToOthers { .. }) => Some((path, why)),
        Ok(_) | Err(Distrust::Io(_)) => None,
    };
    all.filter_map(open_to_others).collect()
}

//! Finding the other executables of the same installation.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use blat_config::Home;
use blat_domain::package::name::TargetName;

use crate::failure::Failure;

/// The executable `name`: beside this one, so that one installation does not run another's; else on the search path.
pub(crate) fn find(name: &str) -> Result<PathBuf, Failure> {
    let own = env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(|dir| dir.join(name)).filter(|path| is_executable(path));
    let searched = || {
        let path = env::var_os("PATH")?;
        env::split_paths(&path)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(name))
            .find(|path| is_executable(path))
    };
    beside.or_else(searched).ok_or_else(|| {
        Failure::failed(format!("cannot find the executable {name}, neither beside blat nor on the search path"))
            .hint("install all of Blat's executables into one directory")
    })
}

/// A run of the agent's executable for one target, which ends when this process does, in whatever way; how it is to run is for the caller to add.
/// The system takes the end of the thread that starts it for that of this process.
pub(crate) fn agent(home: &Home, target: &TargetName) -> Result<Command, Failure> {
    let mut command = agent_itself(home, target)?;
    command.arg("--with-parent").arg(std::process::id().to_string());
    Ok(command)
}

/// The same in the place of this process.
pub(crate) fn agent_itself(home: &Home, target: &TargetName) -> Result<Command, Failure> {
    let mut command = Command::new(find("blat-agent")?);
    command.arg("--home").arg(home.root()).arg("--target").arg(target.as_str());
    Ok(command)
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

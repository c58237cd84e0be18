//! Which targets there are, as far as commands need it without the master.

use blat_config::Home;
use blat_domain::package::name::TargetName;
use blat_domain::util::text::nearest;

use crate::commands::unusable;
use crate::failure::Failure;

/// All configured targets, valid or not.
pub(crate) fn all(home: &Home) -> Result<Vec<TargetName>, Failure> {
    home.target_names().map_err(|error| unusable(&error))
}

/// Refuses a target that has no config file.
pub(crate) fn known(home: &Home, target: &TargetName) -> Result<(), Failure> {
    let names = all(home)?;
    if names.contains(target) {
        return Ok(());
    }
    let failure = Failure::usage(format!("there is no target {target}: config/{target}.conf does not exist"));
    Err(match nearest(target.as_str(), names.iter().map(TargetName::as_str)) {
        Some(name) => failure.hint(format!("did you mean {name}?")),
        None => failure.hint("`blat status` lists all targets"),
    })
}

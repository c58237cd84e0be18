//! `config/blat.yaml`: the master's own settings, and the defaults for every target.

use crate::complaint::Complaints;
use crate::document::{Document, Value};
use crate::home::Home;
use crate::keys::{Found, Keys};
use crate::settings::LogSettings;
use crate::target;

/// What the master itself is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MasterSettings {
    /// How much is logged: 0 errors, 1 restarts, 2 decisions, 3 everything.
    pub verbose: u8,
    /// How its log is rolled.
    pub log: LogSettings,
}

impl Default for MasterSettings {
    fn default() -> Self {
        Self { verbose: 1, log: LogSettings::default() }
    }
}

/// Reads the master's settings; there need not be any.
///
/// # Errors
/// All that is wrong with the file, but for the defaults, which are checked with each target.
pub fn load_master(home: &Home) -> Result<MasterSettings, Complaints> {
    let mut complaints = Vec::new();
    let document = Document::load(home, &home.master_config(), &mut complaints);
    let mut keys = Keys::new();
    keys.complaints = complaints;
    if let Some(document) = &document {
        keys.add(Found { document, node: &document.root });
    }
    let default = MasterSettings::default();
    let settings = MasterSettings {
        verbose: target::verbose(&mut keys, default.verbose),
        log: target::log(&mut keys, default.log),
    };
    keys.find("defaults");
    keys.refuse_unknown(&["http"], target::targets);
    match keys.complaints() {
        None => Ok(settings),
        Some(complaints) => Err(complaints),
    }
}

/// The `defaults:` of a master's file.
pub(crate) fn defaults(document: &Document) -> Option<Found<'_>> {
    match &document.root.value {
        Value::Map(entries) => {
            let (_, node) = entries.iter().find(|(key, _)| key.text == "defaults")?;
            Some(Found { document, node })
        }
        Value::Empty | Value::Text(_) | Value::List(_) => None,
    }
}

//! From YAML to checked settings, or to all that is wrong with it, with positions. Nobody else reads raw YAML.
//!
//! Also what every executable has to agree on about a home tree: where things lie, and how processes lock it and find each other.

pub mod account;
pub mod any_path;
pub mod aws;
mod bandwidth;
mod complaint;
mod conflicts;
mod database;
mod demands;
mod document;
mod home;
pub mod home_id;
mod jump;
mod keys;
mod master;
pub mod notifications;
mod overlap;
pub mod pid_file;
pub mod release_file;
mod release_manager;
pub mod replacement;
mod s3;
pub mod samples;
mod settings;
pub mod socket;
pub mod surroundings;
mod target;
pub mod trust;
mod values;

pub use complaint::{Complaint, Complaints, Place};
pub use conflicts::{Claim, conflicts};
pub use database::ServerAddress;
pub use home::{Home, HomeError, TargetFile};
pub use master::{MasterSettings, load_master};
pub use settings::{
    Database, Demands, Jump, Kind, LogSettings, Mode, Queries, Receiver, ReleaseManager, ReleaseSource, S3Settings,
    Settings, SshSettings, Transport, user_home,
};
pub use target::load_target;

//! What a worker needs to serve one target: its settings, the way there, the source, and where to tell how far it is.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use blat_config::{Home, Kind, S3Settings, Settings};
use blat_domain::archive::record::Owner;
use blat_domain::policy::capacity::MOST_IN_OBJECT;
use blat_packing::cache::PackCache;
use blat_packing::progress::Progress;
use blat_packing::tree::Links;
use rustix::time::{ClockId, clock_gettime};

use super::peers;
use crate::flow::rate_limit::RateLimiter;
use crate::model::orders::{Orders, Permit};
use crate::model::problem::Problem;
use crate::releases::CatalogLoader;
use crate::source::SourceArchive;
use crate::state::history::History;
use crate::state::lasting::LastingMemory;
use crate::state::listed::FormerList;
use crate::state::memory::Memory;
use crate::state::unanswered::Unanswered;
use crate::state::{memory, unanswered};
use crate::sync::ownership::Contact;
use crate::targets::Target;
use crate::targets::host::ServedTarget;
use crate::targets::host::remote::{RemoteProbe, RemoteState};
use crate::targets::s3::S3Target;
use crate::transport::Transport;
use crate::transport::libssh2::Libssh2Link;
use crate::transport::local::Shell;
use crate::transport::login_limit::LoginLimit;
use crate::transport::openssh::{OpensshLink, SocketDirectory};

/// Everything of one target under one version of its settings.
#[derive(Clone)]
pub(crate) struct SyncContext {
    pub(crate) settings: Arc<Settings>,
    pub(crate) target: Arc<dyn Target>,
    /// What all that is sent to the target goes through.
    limiter: Arc<RateLimiter>,
    pub(crate) source: SourceArchive,
    /// Where the agents of the home tree find what one of them has packed.
    cache: Arc<PackCache>,
    /// Where logins wait for their turn.
    pub(crate) logins: LoginLimit,
    home: Home,
    pub(crate) progress: Arc<Progress>,
    pub(crate) catalog: CatalogLoader,
    pub(crate) history: History,
    /// Tagged packages that were there already.
    pub(crate) already: History,
    /// What the target was asked for and has not answered.
    pub(crate) unanswered: Arc<Unanswered>,
    pub(crate) memory: Arc<Memory>,
    /// What must not be forgotten.
    pub(crate) lasting: Arc<LastingMemory>,
    /// The generation of the settings.
    pub(crate) orders: Orders,
    /// What the PackageList names that was stored last.
    pub(crate) former_list: FormerList,
    /// Time since the start of the machine, while it slept as well.
    pub(crate) uptime: fn() -> Duration,
    /// This target of this home tree.
    pub(crate) owner: Owner,
    /// What is known of the archive's owner.
    pub(crate) contact: Arc<Mutex<Contact>>,
}

impl SyncContext {
    /// A context for whoever holds the target's lock. Nothing is connected before it is used.
    pub(crate) fn new(home: &Home, settings: Settings, owner: Owner) -> Self {
        let lasting = Arc::new(LastingMemory::load(home, &settings.name, true));
        Self::serving(home, settings, owner, lasting)
    }

    fn serving(home: &Home, settings: Settings, owner: Owner, lasting: Arc<LastingMemory>) -> Self {
        let sockets = SocketDirectory::Served(home.target_state_dir(&settings.name).join("ssh"));
        Self::at(home, settings, sockets, owner, lasting)
    }

    /// A context for somebody who only looks, while another may serve the target.
    ///
    /// # Errors
    /// Where no scratch directory can be made.
    pub(crate) fn visiting(home: &Home, settings: Settings, owner: Owner) -> std::io::Result<Self> {
        let sockets = SocketDirectory::passing(home)?;
        let lasting = Arc::new(LastingMemory::load(home, &settings.name, false));
        Ok(Self::at(home, settings, sockets, owner, lasting))
    }

    fn at(
        home: &Home,
        settings: Settings,
        sockets: SocketDirectory,
        owner: Owner,
        lasting: Arc<LastingMemory>,
    ) -> Self {
        let limiter = Arc::new(RateLimiter::new(settings.bandwidth.clone()));
        let cache = Arc::new(PackCache::new(home.store_dir()));
        let logins = LoginLimit::new(&home.state_dir(), &home.target_state_dir(&settings.name));
        let transport = transport(home, &settings, sockets, logins.clone());
        let target = target(home, &settings, transport, limiter.clone(), cache.clone(), owner.clone());
        let source = SourceArchive::new(settings.source.clone(), settings.writable, links(&settings));
        let (catalog, history) = (CatalogLoader::new(home, &settings.name), History::new(home, &settings.name));
        let already = History::already(home, &settings.name);
        let former_list = FormerList::new(home.target_state_dir(&settings.name));
        let memory = Arc::new(Memory::load(home.target_state_dir(&settings.name).join(memory::FILE)));
        let unanswered = Arc::new(Unanswered::load(home.target_state_dir(&settings.name).join(unanswered::FILE)));
        let (home, progress, settings) = (home.clone(), Arc::default(), Arc::new(settings));
        let orders = Orders::default();
        Self {
            target,
            limiter,
            source,
            cache,
            logins,
            home,
            progress,
            catalog,
            history,
            already,
            unanswered,
            memory,
            lasting,
            former_list,
            owner,
            contact: Arc::default(),
            settings,
            orders,
            uptime,
        }
    }

    /// Finds out whether another target could use what is packed for this one: else nothing is kept of it.
    pub(crate) async fn look_for_peers(&self) {
        let (home, settings) = (self.home.clone(), self.settings.clone());
        let has_peers = tokio::task::spawn_blocking(move || peers::is_there(&home, &settings)).await;
        self.cache.share(has_peers.unwrap_or(false));
    }

    /// The same for a new piece of work, which finds out for itself whether its settings are those in force.
    pub(crate) fn afresh(&self) -> Self {
        Self { orders: self.orders.afresh(), ..self.clone() }
    }

    /// The most bytes that a package may have for this target; none where there is no limit beside its disk and `max_size`.
    pub(crate) fn most_of_a_package(&self) -> Option<u64> {
        (self.settings.kind() == Kind::S3Sync).then_some(MOST_IN_OBJECT)
    }

    /// Leave to do one batch of what only the settings in force may do.
    ///
    /// # Errors
    /// Where others are in force, or the config on disk says something else.
    pub(crate) async fn permit(&self) -> Result<Permit, Problem> {
        self.orders.permit(&self.home, &self.settings).await
    }

    /// The same under other settings, of the generation of `orders`. The connection is kept where they lead to the same place by the same way.
    pub(crate) fn with(&self, home: &Home, settings: Settings, orders: Orders) -> Self {
        let source = self.source.with(settings.source.clone(), settings.writable, links(&settings));
        if self.leads_where(&settings) {
            // Also for what is on its way now.
            self.limiter.set(settings.bandwidth.clone());
            let contact = Arc::default();
            return Self { source, contact, settings: Arc::new(settings), orders, ..self.clone() };
        }
        // What still runs by the former settings notes down in the same memory.
        let (lasting, unanswered) = (self.lasting.clone(), self.unanswered.clone());
        unanswered.forget();
        Self { source, orders, unanswered, ..Self::serving(home, settings, self.owner.clone(), lasting) }
    }

    /// Whether what a tag asked for is done as well by these settings: they read the same source, the same tags, and serve the same target.
    pub(crate) fn serves_tags_as(&self, settings: &Settings) -> bool {
        let ends = |s: &Settings| (s.source.clone(), s.tags.clone());
        self.leads_where(settings) && ends(&self.settings) == ends(settings)
    }

    /// Whether these settings name the same target by the same way, so that what runs may go on.
    pub(crate) fn leads_where(&self, settings: &Settings) -> bool {
        let place =
            |s: &Settings| (s.transport.clone(), s.archive.clone(), s.bin.clone(), s.disk_reserve, s.receiver.clone());
        place(&self.settings) == place(settings)
    }
}

fn uptime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or(0))
}

fn target(
    home: &Home,
    settings: &Settings,
    leads: Leads<'_>,
    limiter: Arc<RateLimiter>,
    cache: Arc<PackCache>,
    owner: Owner,
) -> Arc<dyn Target> {
    let transport = match leads {
        Leads::ToHost(transport) => transport,
        Leads::ToBucket(s3) => return Arc::new(bucket(home, settings, s3, limiter, owner)),
    };
    let (archive, bin) = (settings.archive.clone(), settings.bin.clone());
    let remote_state = RemoteState::new(transport, probe(settings), limiter);
    let place = home.target_state_dir(&settings.name);
    Arc::new(ServedTarget::new(remote_state, archive, bin, settings.disk_reserve, cache, owner, place))
}

/// The place in a bucket that these settings name.
pub(crate) fn bucket(
    home: &Home,
    settings: &Settings,
    s3: &S3Settings,
    limiter: Arc<RateLimiter>,
    owner: Owner,
) -> S3Target {
    S3Target::new(s3.clone(), &home.target_state_dir(&settings.name), limiter, owner)
}

/// What finds out what serves the target.
pub(crate) fn probe(settings: &Settings) -> RemoteProbe {
    RemoteProbe::new(settings.receiver.clone(), settings.archive.clone(), settings.bin.clone())
}

/// The configured way to the target, for somebody who only looks.
///
/// # Errors
/// Where no scratch directory can be made, or the target is no host.
pub(crate) fn visiting_transport(home: &Home, settings: &Settings) -> std::io::Result<Transport> {
    let logins = LoginLimit::new(&home.state_dir(), &home.target_state_dir(&settings.name));
    match transport(home, settings, SocketDirectory::passing(home)?, logins) {
        Leads::ToHost(transport) => Ok(transport),
        Leads::ToBucket(_) => Err(std::io::Error::other("a bucket runs no commands")),
    }
}

/// Where the configured way leads.
enum Leads<'a> {
    /// To something that runs commands.
    ToHost(Transport),
    /// To something that keeps objects.
    ToBucket(&'a S3Settings),
}

/// What the target makes of hard links.
fn links(settings: &Settings) -> Links {
    match settings.transport {
        blat_config::Transport::Openssh(_) | blat_config::Transport::Libssh2(_) | blat_config::Transport::Local => {
            Links::Kept
        }
        blat_config::Transport::S3(_) => Links::Copied,
    }
}

/// The configured way to the target; it connects when it is first used.
fn transport<'a>(home: &Home, settings: &'a Settings, sockets: SocketDirectory, logins: LoginLimit) -> Leads<'a> {
    Leads::ToHost(match &settings.transport {
        blat_config::Transport::Local => Transport::Local(Shell::running(home.root(), settings.local_bin())),
        blat_config::Transport::Openssh(ssh) => {
            Transport::Openssh(Box::new(OpensshLink::new(ssh.clone(), sockets, logins)))
        }
        blat_config::Transport::Libssh2(ssh) => Transport::Libssh2(Box::new(Libssh2Link::new(ssh.clone(), logins))),
        blat_config::Transport::S3(s3) => return Leads::ToBucket(s3),
    })
}

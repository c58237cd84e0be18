//! What a worker needs to serve one target: its settings, the way there, the source, and where to tell how far it is.

use std::sync::Arc;

use blat_config::{Home, Settings, Transport as Way};

use crate::memory::{self, Memory};
use crate::progress::Progress;
use crate::source::SourceArchive;
use crate::target::Target;
use crate::target::script::ScriptTarget;
use crate::target::transport::Transport;
use crate::target::transport::handshake::Handshakes;
use crate::target::transport::local::Shell;
use crate::target::transport::openssh::Link;

/// Everything of one target under one version of its settings.
#[derive(Clone)]
pub(crate) struct Workplace {
    pub(crate) settings: Arc<Settings>,
    pub(crate) target: Arc<dyn Target>,
    pub(crate) source: SourceArchive,
    pub(crate) progress: Arc<Progress>,
    pub(crate) memory: Arc<Memory>,
}

impl Workplace {
    /// A workplace for these settings. Nothing is connected before it is used.
    pub(crate) fn new(home: &Home, settings: Settings) -> Self {
        let source = SourceArchive::new(settings.source.clone(), settings.writable);
        let memory = Arc::new(Memory::load(home.target_state_dir(&settings.name).join(memory::FILE)));
        let target = target(home, &settings);
        Self { target, source, progress: Arc::default(), memory, settings: Arc::new(settings) }
    }

    /// The same under other settings. The connection is kept where they lead to the same place by the same way.
    pub(crate) fn with(&self, home: &Home, settings: Settings) -> Self {
        if self.leads_where(&settings) {
            let source = SourceArchive::new(settings.source.clone(), settings.writable);
            return Self { source, settings: Arc::new(settings), ..self.clone() };
        }
        Self::new(home, settings)
    }

    /// Whether these settings name the same target by the same way, so that what runs may go on.
    pub(crate) fn leads_where(&self, settings: &Settings) -> bool {
        let place = |s: &Settings| (s.transport.clone(), s.archive.clone(), s.bin.clone(), s.disk_reserve);
        place(&self.settings) == place(settings)
    }
}

fn target(home: &Home, settings: &Settings) -> Arc<dyn Target> {
    let transport = match &settings.transport {
        Way::Local => Transport::Local(Shell::new()),
        Way::Openssh(ssh) => {
            let directory = home.target_state_dir(&settings.name).join("ssh");
            Transport::Openssh(Box::new(Link::new(ssh.clone(), directory, Handshakes::new(&home.state_dir()))))
        }
    };
    Arc::new(ScriptTarget::new(transport, settings.archive.clone(), settings.bin.clone(), settings.disk_reserve))
}

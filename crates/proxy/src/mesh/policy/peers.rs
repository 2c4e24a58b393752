//! PeerAuthentication: whether connections have to be mutually authenticated.

use std::collections::BTreeMap;

use kinds::istio::{MutualTlsMode, PeerAuthentication};

use crate::routing::Rank;

/// Whether connections to a port have to be mutually authenticated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// They may be. `DISABLE` amounts to the same: whether a peer of the mesh authenticates itself is its own decision.
    #[default]
    Permissive,
    /// They must be.
    Strict,
}

impl Mode {
    /// `None` where something else has to say.
    fn of(mode: MutualTlsMode) -> Option<Mode> {
        match mode {
            MutualTlsMode::Unset => None,
            MutualTlsMode::Disable | MutualTlsMode::Permissive => Some(Mode::Permissive),
            MutualTlsMode::Strict => Some(Mode::Strict),
        }
    }
}

/// A compiled PeerAuthentication.
#[derive(Debug)]
pub(super) struct Authentication {
    /// The older one wins.
    pub(super) rank: Rank,
    mode: Option<Mode>,
    ports: BTreeMap<u16, Mode>,
}

impl Authentication {
    /// What cannot be followed is told through `wrong`.
    pub(super) fn compile(object: &PeerAuthentication, rank: Rank, selects: bool, wrong: &mut Vec<String>) -> Self {
        let mut ports = BTreeMap::new();
        if !selects && !object.spec.port_level_mtls.is_empty() {
            wrong.push("portLevelMtls needs a selector".to_owned());
        }
        for (port, mtls) in object.spec.port_level_mtls.iter().filter(|_| selects) {
            match (port.parse(), Mode::of(mtls.mode)) {
                (Ok(port), Some(mode)) => drop(ports.insert(port, mode)),
                (Ok(_), None) => {}
                (Err(_), _) => wrong.push(format!("portLevelMtls: {port:?} is no port")),
            }
        }
        Authentication { rank, mode: object.spec.mtls.and_then(|mtls| Mode::of(mtls.mode)), ports }
    }
}

/// What counts for a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Modes {
    mode: Mode,
    ports: BTreeMap<u16, Mode>,
}

impl Modes {
    /// Of the one for the mesh, for the namespace and for the workload; each takes what it does not say from the wider one.
    pub(super) fn of(
        mesh: Option<&Authentication>,
        own: Option<&Authentication>,
        workload: Option<&Authentication>,
    ) -> Self {
        let mode = [workload, own, mesh].into_iter().flatten().find_map(|one| one.mode);
        let ports = workload.map(|one| one.ports.clone()).unwrap_or_default();
        Modes { mode: mode.unwrap_or_default(), ports }
    }

    pub(super) fn at(&self, port: u16) -> Mode {
        self.ports.get(&port).copied().unwrap_or(self.mode)
    }
}

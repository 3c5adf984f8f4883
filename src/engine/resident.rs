//! The critics that requests can be written with: the one in service and those resident beside it.
//!
//! Invariants: a request keeps its weights to its end; two installations never share cached blocks, whatever their numbers.

use super::blocks::BlockKey;
use super::error::Error;
use super::request::Policy;
use crate::transformer::decode::PackedAdapter;
use crate::types::CriticVersion;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// One installation of weights: a critic's, or the base.
#[derive(Clone)]
pub(crate) struct Weights {
    pub(crate) version: CriticVersion,
    pub(crate) adapter: Option<Arc<PackedAdapter>>,
    /// Where the key chains of its blocks begin. The version will not do: a learner that goes back to a checkpoint may
    /// publish the same number again with other weights.
    pub(crate) root: BlockKey,
}

impl Weights {
    /// The base: no adapter. Its blocks stay good forever.
    pub(crate) fn base() -> Self {
        Self { version: CriticVersion::BASE, adapter: None, root: BlockKey::root(0) }
    }

    /// The `installation`-th adapter, counted from 1.
    pub(crate) fn critic(version: CriticVersion, adapter: Arc<PackedAdapter>, installation: u64) -> Self {
        Self { version, adapter: Some(adapter), root: BlockKey::root(installation) }
    }
}

/// For whom a critic is resident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A swap: it stays until it is unloaded or installed.
    Swap,
    /// Clients who ask for it by its number: it makes room for others.
    Client,
}

/// A critic beside the one in service.
struct Beside {
    weights: Weights,
    holder: Holder,
    /// Its place in the order of loading.
    turn: u64,
}

/// The critic in service and those beside it.
pub(crate) struct ResidentCritics {
    serving: Weights,
    beside: BTreeMap<CriticVersion, Beside>,
    /// How many may be beside it.
    max: usize,
    installations: u64,
    turns: u64,
    /// Every installation that may still be in memory.
    installed: Vec<Weak<PackedAdapter>>,
}

impl ResidentCritics {
    /// The base in service, and room for `max` beside it.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            serving: Weights::base(),
            beside: BTreeMap::new(),
            max,
            installations: 0,
            turns: 0,
            installed: Vec::new(),
        }
    }

    /// The version in service.
    pub(crate) fn serving(&self) -> CriticVersion {
        self.serving.version
    }

    /// The weights for a request of `policy`.
    ///
    /// # Errors
    /// If it names a version that is not resident.
    pub(crate) fn weights(&self, policy: Policy) -> Result<Weights, Error> {
        match policy {
            Policy::Base => Ok(Weights::base()),
            Policy::Serving => Ok(self.serving.clone()),
            Policy::Version(version) if version == self.serving.version => Ok(self.serving.clone()),
            Policy::Version(version) => {
                let found = self.beside.get(&version).map(|beside| beside.weights.clone());
                found.ok_or_else(|| self.unknown(version))
            }
        }
    }

    fn unknown(&self, version: CriticVersion) -> Error {
        let resident = std::iter::once(self.serving.version).chain(self.beside.keys().copied());
        let resident = resident.map(|version| version.0.to_string()).collect::<Vec<_>>().join(", ");
        Error::Version { version: version.0, resident }
    }

    /// Puts `version` into service. If it is resident beside the one in service with the same weights, its cached blocks stay
    /// valid.
    pub(crate) fn install(&mut self, version: CriticVersion, adapter: Option<Arc<PackedAdapter>>) {
        let beside = self.beside.remove(&version).map(|beside| beside.weights);
        let resident = beside.filter(|known| match (&known.adapter, &adapter) {
            (Some(known), Some(new)) => Arc::ptr_eq(known, new),
            (known, new) => known.is_none() && new.is_none(),
        });
        self.serving = match resident {
            Some(weights) => weights,
            None => self.installation(version, adapter),
        };
    }

    /// Makes `version` resident beside the one in service. If there is no room, the client's that was loaded longest ago leaves.
    ///
    /// # Errors
    /// If there is no room, and none may leave.
    pub(crate) fn load(
        &mut self,
        version: CriticVersion,
        adapter: Option<Arc<PackedAdapter>>,
        holder: Holder,
    ) -> Result<(), Error> {
        let is_resident = self.beside.contains_key(&version);
        if is_resident && holder == Holder::Client {
            return Ok(());
        }
        if !is_resident && self.beside.len() >= self.max {
            let may_leave = self.beside.iter().filter(|(_, beside)| beside.holder == Holder::Client);
            let oldest = may_leave.min_by_key(|(_, beside)| beside.turn).map(|(version, _)| *version);
            let Some(oldest) = oldest else { return Err(Error::VersionsFull { version: version.0, max: self.max }) };
            self.beside.remove(&oldest);
        }
        let weights = self.installation(version, adapter);
        self.turns += 1;
        self.beside.insert(version, Beside { weights, holder, turn: self.turns });
        Ok(())
    }

    /// Forgets `version`, unless it is in service. Returns whether it was resident.
    pub(crate) fn unload(&mut self, version: CriticVersion) -> bool {
        self.beside.remove(&version).is_some()
    }

    /// Installations in memory.
    pub(crate) fn alive(&self) -> usize {
        self.installed.iter().filter(|adapter| adapter.strong_count() > 0).count()
    }

    /// Their size in memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.installed.iter().filter_map(Weak::upgrade).map(|adapter| adapter.bytes()).sum()
    }

    fn installation(&mut self, version: CriticVersion, adapter: Option<Arc<PackedAdapter>>) -> Weights {
        let Some(adapter) = adapter else { return Weights { version, ..Weights::base() } };
        self.installations += 1;
        self.installed.retain(|known| known.strong_count() > 0);
        if !self.installed.iter().any(|known| known.as_ptr() == Arc::as_ptr(&adapter)) {
            self.installed.push(Arc::downgrade(&adapter));
        }
        Weights::critic(version, adapter, self.installations)
    }
}

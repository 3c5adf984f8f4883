//! `adapter_config.json`: which modules have factors, of what rank and at what scale.
//!
//! What changes the computation and is not known here is refused by name, with what to do about it.

use super::targets::{Module, Numbers, Place, Selection, layers};
use crate::formats::error::{Error, Result};
use crate::formats::spec::ModelSpec;
use crate::formats::time_limit::{self, Limits};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// The largest rank. A factor of a higher one is larger than the linear that it stands for.
const RANK_MAX: f64 = (1 << 14) as f64;

/// Keys of PEFT that change what an adapter computes; each must be absent, false, null or empty.
const MUST_BE_OFF: [&str; 14] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "arrow_config",
];

/// Ways to begin that leave the base's weights as they are.
const PLAIN_BEGINNINGS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

/// What to do about an adapter that is more than two factors beside a weight.
pub(super) const MERGE: &str =
    "merge it into its base with PEFT (merge_and_unload, then save_pretrained) and use the result as model";

/// What to do about an adapter that was trained beside other weights than its base's.
const CONVERT: &str = "its training began by changing the base's weights, so it does not fit the weights as they are; save it \
                       again with PEFT's save_pretrained(path_initial_model_for_weight_conversion=...), or merge it with \
                       merge_and_unload and use the result as model";

/// The most processor time to match all modules with all patterns.
const TIME_MAX: Duration = Duration::from_secs(2);
const STACK_BYTES: usize = 8 << 20;

/// A module with factors.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    pub(super) module: Module,
    pub(super) rank: usize,
    /// What its branch is scaled by.
    pub(super) scale: f32,
}

/// What a config says.
#[derive(Debug)]
pub(super) struct PeftConfig {
    /// Rank and alpha of modules that no pattern names.
    pub(super) rank: usize,
    pub(super) alpha: f32,
    pub(super) rslora: bool,
    targets: Selection,
    excluded: Option<Selection>,
    layers: Option<BTreeSet<usize>>,
    ranks: Numbers,
    alphas: Numbers,
    is_tying: bool,
}

/// The keys of a config, and the file that errors name.
struct Keys<'a> {
    json: &'a Map<String, Value>,
    path: &'a Path,
}

impl Keys<'_> {
    fn get(&self, name: &str) -> &Value {
        self.json.get(name).unwrap_or(&Value::Null)
    }

    fn wrong(&self, name: &'static str, expected: &str) -> Error {
        let got = self.get(name);
        Error::Unsupported {
            path: self.path.to_owned(),
            what: name,
            got: got.as_str().map_or_else(|| got.to_string(), str::to_owned),
            expected: expected.to_owned(),
        }
    }

    /// What `read` makes of the value of `name`.
    fn read<T>(&self, name: &str, read: impl FnOnce(&Value) -> std::result::Result<T, String>) -> Result<T> {
        let malformed = |why| Error::Malformed { path: self.path.to_owned(), why: format!("{name}: {why}") };
        read(self.get(name)).map_err(malformed)
    }

    fn flag(&self, name: &'static str) -> Result<bool> {
        match self.get(name) {
            Value::Null => Ok(false),
            Value::Bool(on) => Ok(*on),
            _ => Err(self.wrong(name, "true or false")),
        }
    }

    fn refused(&self, name: &str, remedy: &'static str) -> Error {
        let what = format!("an adapter with {name} = {} is not supported", self.get(name));
        Error::Refused { path: self.path.to_owned(), what, remedy }
    }

    fn refuse_variants(&self) -> Result<()> {
        if self.get("peft_type") != "LORA" {
            return Err(self.wrong("peft_type", "LORA"));
        }
        if !self.get("bias").is_null() && self.get("bias") != "none" {
            return Err(self.refused("bias", MERGE));
        }
        let is_off = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => false,
        };
        if let Some(name) = MUST_BE_OFF.iter().find(|name| !is_off(self.get(name))) {
            return Err(self.refused(name, MERGE));
        }
        let pattern = self.get("layers_pattern");
        let named = pattern.as_array().map_or(std::slice::from_ref(pattern), Vec::as_slice);
        if !is_off(pattern) && pattern != "" && !named.iter().any(|name| name == "layers") {
            return Err(self.wrong("layers_pattern", "layers"));
        }
        let beginning = self.get("init_lora_weights");
        match beginning {
            Value::Null | Value::Bool(_) => Ok(()),
            Value::String(name) if PLAIN_BEGINNINGS.contains(&name.to_lowercase().as_str()) => Ok(()),
            _ => Err(self.refused("init_lora_weights", CONVERT)),
        }
    }
}

impl PeftConfig {
    /// Reads the keys `json` of the file `path`.
    ///
    /// # Errors
    /// If a key has a wrong value, or the adapter computes anything but `y += scale * (x A^T) B^T`.
    pub(super) fn read(json: &Map<String, Value>, path: &Path) -> Result<Self> {
        let keys = Keys { json, path };
        keys.refuse_variants()?;
        let rank = keys.get("r").as_f64().filter(|rank| is_rank(*rank));
        let alpha = keys.get("lora_alpha").as_f64().map(|alpha| alpha as f32).filter(|alpha| alpha.is_finite());
        let targets = keys.read("target_modules", Selection::read)?;
        Ok(Self {
            rank: rank.ok_or_else(|| keys.wrong("r", &format!("1 to {RANK_MAX}")))? as usize,
            alpha: alpha.ok_or_else(|| keys.wrong("lora_alpha", "a number"))?,
            rslora: keys.flag("use_rslora")?,
            targets: targets.ok_or_else(|| keys.wrong("target_modules", "at least one"))?,
            excluded: keys.read("exclude_modules", Selection::read)?,
            layers: keys.read("layers_to_transform", layers)?,
            ranks: keys.read("rank_pattern", Numbers::read)?,
            alphas: keys.read("alpha_pattern", Numbers::read)?,
            is_tying: keys.flag("ensure_weight_tying")?,
        })
    }

    /// The modules of a model of `spec` that have factors.
    ///
    /// # Errors
    /// If there are none, one is named that the model has not, or the patterns take too long.
    pub(super) fn targets(self, spec: &ModelSpec, path: &Path) -> Result<Vec<Target>> {
        let malformed = |why| Error::Malformed { path: path.to_owned(), why };
        let (is_tying, tied) = (self.is_tying, spec.tied);
        let modules = Module::all(spec);
        let limits = Limits { time: TIME_MAX, bytes_max: None, stack_bytes: STACK_BYTES };
        let found = time_limit::within(limits, "rco-patterns", move || self.find(modules));
        let found = found.map_err(|error| malformed(format!("target_modules: {error}")))?.map_err(malformed)?;
        let is_end = |target: &Target| !matches!(target.module.place, Place::Layer(..));
        if is_tying && tied && found.iter().any(is_end) {
            let what =
                "an adapter on a tied embedding and head with ensure_weight_tying = true is not supported".to_owned();
            return Err(Error::Refused { path: path.to_owned(), what, remedy: MERGE });
        }
        Ok(found)
    }

    fn find(self, modules: Vec<Module>) -> std::result::Result<Vec<Target>, String> {
        if let Some(name) = self.targets.stranger(&modules) {
            let mut known: Vec<_> =
                modules.iter().filter_map(|module| module.key.rsplit('.').next()).map(str::to_owned).collect();
            known.sort_unstable();
            known.dedup();
            return Err(format!("target_modules: expected linears of the model ({}), got {name:?}", known.join(", ")));
        }
        let mut found = Vec::new();
        for module in modules {
            let in_layers = match (&self.layers, &module.place) {
                (Some(layers), Place::Layer(layer, _)) => layers.contains(layer),
                (Some(_), _) => false,
                (None, _) => true,
            } || self.targets.names(&module);
            let is_excluded = self.excluded.as_ref().map_or(Ok(false), |excluded| excluded.selects(&module))?;
            if !in_layers || is_excluded || !self.targets.selects(&module)? {
                continue;
            }
            let rank = self.ranks.of(&module)?.unwrap_or(self.rank as f64);
            if !is_rank(rank) {
                return Err(format!("rank_pattern: expected 1 to {RANK_MAX} for {}, got {rank}", module.key));
            }
            let alpha = self.alphas.of(&module)?.map_or(self.alpha, |alpha| alpha as f32);
            let scale = alpha / if self.rslora { (rank as f32).sqrt() } else { rank as f32 };
            found.push(Target { module, rank: rank as usize, scale });
        }
        match found.is_empty() {
            true => Err("target_modules: expected at least one linear of the model, got none".to_owned()),
            false => Ok(found),
        }
    }
}

fn is_rank(rank: f64) -> bool {
    rank.fract() == 0.0 && (1.0..=RANK_MAX).contains(&rank)
}

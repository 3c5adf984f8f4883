//! Rotary positions as a `config.json` states them, in the spelling of transformers 4 or 5.

use super::{FULL, Reader, SLIDING};
use crate::formats::error::Result;
use crate::formats::rotary::{Llama3Scaling, Rotary, YarnScaling};
use crate::formats::spec::Family;
use serde_json::{Map, Value};

/// The key of the context before it was stretched.
const ORIGINAL_CONTEXT: &str = "original_max_position_embeddings";

impl Reader<'_> {
    /// The longest context. Positions beyond the original one would need LongRoPE's other factors for the whole sequence.
    pub(super) fn context_tokens(&self, family: Family) -> usize {
        let config = self.config;
        let maps = [&config.rope_scaling, &config.rope_parameters].into_iter().flatten();
        let is_long = maps.clone().any(|map| kind_in(family, map) == Some("longrope"));
        let given = config.original_max_position_embeddings;
        let original = given.or_else(|| maps.clone().find_map(|map| map.get(ORIGINAL_CONTEXT)?.as_f64()));
        let all = config.max_position_embeddings;
        original.filter(|_| is_long).map_or(all, |original| all.min(original as usize))
    }

    /// Rotary positions of the layers of `kind`.
    ///
    /// Transformers 5 has `rope_parameters`, with a map for each kind of layer if a family has two kinds. Transformers 4 has
    /// the bases as keys of the config, and a `rope_scaling` that does not apply to Gemma's sliding-window layers.
    pub(super) fn rotary(&self, family: Family, kind: &str, head_dim: usize) -> Result<Rotary> {
        let config = self.config;
        let local = family == Family::Gemma3 && kind == SLIDING;
        let nested = config.rope_parameters.as_ref().filter(|map| map.contains_key(FULL) || map.contains_key(SLIDING));
        let parameters = match (nested, &config.rope_parameters) {
            (Some(kinds), _) => kinds.get(kind).and_then(Value::as_object),
            (None, flat) => flat.as_ref(),
        };
        let scaling = config.rope_scaling.as_ref().filter(|_| !local);
        let (base, default) = match (family, local) {
            (Family::Gemma3, true) => (config.rope_local_base_freq, 10_000.0),
            (Family::Gemma3, false) => (config.rope_theta, 1_000_000.0),
            _ => (config.rope_theta, 10_000.0),
        };
        let given = [scaling, parameters].into_iter().flatten().find_map(|map| map.get("rope_theta")?.as_f64());
        let base = given.or(base).unwrap_or(default) as f32;
        let share =
            [scaling, parameters].into_iter().flatten().find_map(|map| map.get("partial_rotary_factor")?.as_f64());
        let share = share.or(config.partial_rotary_factor).unwrap_or(1.0);
        if share != 1.0 && (family != Family::Phi3 || !(share > 0.0 && share < 1.0)) {
            return Err(self.refused("partial_rotary_factor", share, "1"));
        }
        let rotary = Rotary::new(base, (head_dim as f64 * share) as usize);
        // If both maps are given they say the same, so that only one of them is applied.
        match [scaling, parameters].into_iter().flatten().find(|map| !is_plain(map)) {
            Some(map) => self.scaled(rotary, family, base, map),
            None => Ok(rotary),
        }
    }

    fn scaled(&self, rotary: Rotary, family: Family, base: f32, scaling: &Map<String, Value>) -> Result<Rotary> {
        let number = |key: &str| -> Result<f32> {
            let number = scaling.get(key).and_then(Value::as_f64).filter(|&number| number > 0.0);
            let number = number.ok_or_else(|| self.malformed(format!("rope scaling: expected {key} above 0")));
            number.map(|number| number as f32)
        };
        match kind_in(family, scaling) {
            // Dynamic scaling begins beyond the longest context.
            Some("default" | "dynamic") => Ok(rotary),
            Some("longrope") => self.longrope(rotary, scaling),
            Some("yarn") => self.yarn(rotary, base, scaling),
            Some("linear") => Ok(rotary.slowed(number("factor")?)),
            Some("llama3") => Ok(rotary.llama3(Llama3Scaling {
                factor: number("factor")?,
                low_frequency_factor: number("low_freq_factor")?,
                high_frequency_factor: number("high_freq_factor")?,
                original_context_tokens: number("original_max_position_embeddings")?,
            })),
            // An old map without a type is refused: how its factor applies is not certain.
            other => Err(self.refused(
                "rope scaling",
                other.unwrap_or("of no type"),
                "default, linear, llama3, yarn, dynamic, longrope",
            )),
        }
    }

    /// The context that a scaling stretches.
    fn original_context(&self, scaling: &Map<String, Value>) -> f64 {
        let given = self.config.original_max_position_embeddings;
        let given = given.or_else(|| scaling.get(ORIGINAL_CONTEXT).and_then(Value::as_f64));
        given.unwrap_or(self.config.max_position_embeddings as f64)
    }

    /// LongRoPE (arXiv 2402.13753) with the factors for contexts up to the original one.
    fn longrope(&self, rotary: Rotary, scaling: &Map<String, Value>) -> Result<Rotary> {
        let pairs = rotary.frequencies.len();
        let list = scaling.get("short_factor").and_then(Value::as_array);
        let factors: Option<Vec<f32>> =
            list.and_then(|list| list.iter().map(|factor| factor.as_f64().map(|factor| factor as f32)).collect());
        let factors = factors.filter(|factors| factors.len() == pairs && factors.iter().all(|factor| *factor > 0.0));
        let factors = factors
            .ok_or_else(|| self.malformed(format!("rope scaling: expected short_factor of {pairs} numbers above 0")))?;
        let original = self.original_context(scaling);
        let stretched = self.config.max_position_embeddings as f64 / original;
        let usual = if stretched <= 1.0 { 1.0 } else { (1.0 + stretched.ln() / original.ln()).sqrt() };
        let magnitude = scaling.get("attention_factor").and_then(Value::as_f64).unwrap_or(usual) as f32;
        Ok(Rotary { magnitude, ..rotary.slowed_each(&factors) })
    }

    fn yarn(&self, rotary: Rotary, base: f32, scaling: &Map<String, Value>) -> Result<Rotary> {
        let number = |key: &str| scaling.get(key).and_then(Value::as_f64).filter(|number| *number > 0.0);
        let original = self.original_context(scaling);
        let factor = number("factor").unwrap_or(self.config.max_position_embeddings as f64 / original);
        let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let usual = match (number("mscale"), number("mscale_all_dim")) {
            (Some(scale), Some(all)) => magnitude(scale) / magnitude(all),
            _ => magnitude(1.0),
        };
        Ok(rotary.yarn(
            base,
            YarnScaling {
                factor: factor as f32,
                beta_fast: number("beta_fast").unwrap_or(32.0),
                beta_slow: number("beta_slow").unwrap_or(1.0),
                original_context_tokens: original,
                truncate: scaling.get("truncate").and_then(Value::as_bool).unwrap_or(true),
                magnitude: number("attention_factor").unwrap_or(usual) as f32,
            },
        ))
    }
}

/// The kind of a scaling; the first configs of Phi 3 call LongRoPE by other names.
fn kind_in(family: Family, scaling: &Map<String, Value>) -> Option<&str> {
    match kind_of(scaling) {
        Some("su" | "yarn") if family == Family::Phi3 => Some("longrope"),
        kind => kind,
    }
}

fn kind_of(scaling: &Map<String, Value>) -> Option<&str> {
    scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str)
}

/// Whether a map holds nothing but the base, so that nothing is scaled.
fn is_plain(map: &Map<String, Value>) -> bool {
    map.iter().all(|(key, value)| match key.as_str() {
        "rope_theta" => true,
        "rope_type" | "type" => value == "default",
        "partial_rotary_factor" => true,
        _ => false,
    })
}

//! A run's resolved config, and what of it differs from the quickstart.

use crate::checkpoint;
use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::config::Config;
use crate::disk;
use crate::node::RESOLVED_CONFIG;
use crate::report::Setting;
use anyhow::Context;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

/// The resolved config of the run in the directory `run`: of its newest process, or of its newest checkpoint.
///
/// # Errors
/// If it cannot be read.
pub(super) fn read(run: &Path) -> Result<Option<String>, CommandError> {
    let newest = checkpoint::list(&run.join("checkpoints")).or_exit(Exit::Checkpoint)?.into_iter().next();
    let saved = newest.map(|entry| entry.path.join(checkpoint::CONFIG));
    for path in [Some(run.join(RESOLVED_CONFIG)), saved].into_iter().flatten() {
        match disk::read_text(&path, checkpoint::CONFIG_BYTES_MAX) {
            Ok(text) => return Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| path.display().to_string()).or_exit(Exit::Usage),
        }
    }
    Ok(None)
}

/// The settings of `config` that differ from the quickstart's, in the quickstart's order. A key that only one of them has differs
/// too: another version of the program wrote the config.
pub(super) fn differences(config: &str) -> Vec<Setting> {
    let (Ok(here), Ok(quickstart)) = (config.parse(), Config::embedded_text().parse()) else { return Vec::new() };
    let [here, quickstart] = [here, quickstart].map(|table: toml::Table| {
        let mut keys = BTreeMap::new();
        flatten("", &table, &mut keys);
        keys
    });
    if config.is_empty() {
        return Vec::new();
    }
    let keys: std::collections::BTreeSet<&String> = here.keys().chain(quickstart.keys()).collect();
    let value = |keys: &BTreeMap<String, toml::Value>, key: &str| keys.get(key).map(ToString::to_string);
    let setting = |key: &String| {
        let (value, quickstart) = (value(&here, key), value(&quickstart, key));
        let differs = value != quickstart;
        let written = |value: Option<String>| value.unwrap_or_else(|| "not set".to_owned());
        differs.then(|| Setting { key: key.clone(), value: written(value), quickstart: written(quickstart) })
    };
    keys.into_iter().filter_map(setting).collect()
}

/// Adds each value of `table` under its whole key. Numbers are compared as numbers, however they are written.
fn flatten(prefix: &str, table: &toml::Table, keys: &mut BTreeMap<String, toml::Value>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(table) => flatten(&key, table, keys),
            toml::Value::Float(float) => drop(keys.insert(key, toml::Value::Float(rounded(*float)))),
            value => drop(keys.insert(key, value.clone())),
        }
    }
}

/// The config stores some of its numbers in f32, and writes 0.05 as 0.05000000074505806: the shortest number that is the same there.
fn rounded(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_changed_differs() {
        let same = Config::resolve(None, &[]).unwrap().to_toml();
        assert_eq!(differences(&same), []);
        let sets = ["learner.beta=0.2", "critic.sampling.stop=['x']"].map(str::to_owned);
        let changed = Config::resolve(None, &sets).unwrap().to_toml();
        let keys: Vec<String> = differences(&changed).into_iter().map(|setting| setting.key).collect();
        assert_eq!(keys, ["critic.sampling.stop", "learner.beta"]);
        assert_eq!(differences(&changed)[1].value, "0.2");
        assert_eq!(differences(&changed)[1].quickstart, "0.05");
        let without = same.replace("groups_per_step = 4\n", "");
        let expected =
            Setting { key: "learner.groups_per_step".into(), value: "not set".into(), quickstart: "4".into() };
        assert_eq!(differences(&without), [expected]);
    }
}

//! Groups as flat arrays in a safetensors file, for programs that load thousands at once.
//!
//! | tensor | type, shape | holds |
//! |---|---|---|
//! | `group_offsets` | I64 (groups + 1) | critiques of group g: `group_offsets[g]..group_offsets[g + 1]` |
//! | `prefix_ids`, `prefix_offsets` | U32 (ids), I64 (groups + 1) | the critic's prompts |
//! | `token_ids`, `log_probs`, `token_offsets` | U32, F32 (tokens), I64 (critiques + 1) | the sampled tokens |
//! | `utilities`, `versions`, `episodes` | F32, I64 (critiques), I64 (groups) | CU, critic version, episode |
//! | `rest`, `rest_offsets` | U8 (bytes), I64 (groups + 1) | the other fields of a group, as JSON |

use super::error::{Error, Result};
use super::record::{Groups, RecordedGroup, complaint};
use crate::types::{CritiqueGroup, ModelId};
use crate::{disk, formats};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use std::path::Path;

/// The longest file.
const FILE_BYTES_MAX: u64 = 8 << 30;
/// The format, as the metadata names it.
const FORMAT: &str = "rco-groups-1";
/// The key of the metadata: format and model, as JSON.
const METADATA_KEY: &str = "rco_groups";

/// The arrays.
#[derive(Default)]
struct Arrays {
    group_offsets: Vec<i64>,
    prefix_ids: Vec<u32>,
    prefix_offsets: Vec<i64>,
    token_ids: Vec<u32>,
    log_probs: Vec<f32>,
    token_offsets: Vec<i64>,
    utilities: Vec<f32>,
    versions: Vec<i64>,
    episodes: Vec<i64>,
    rest: Vec<u8>,
    rest_offsets: Vec<i64>,
}

/// Fields with arrays of their own, which are left out of the rest: of a group, of a critique, of its completion.
const GROUP_ARRAYS: [&str; 2] = ["episode", "prefix_ids"];
const CRITIQUE_ARRAYS: [&str; 1] = ["utility"];
const COMPLETION_ARRAYS: [&str; 3] = ["ids", "log_probs", "version"];

pub(super) fn render(path: &Path, groups: &[RecordedGroup]) -> Result<Vec<u8>> {
    let malformed = |why: String| Error::Malformed { path: path.to_owned(), why };
    let Some(first) = groups.first() else { return Err(malformed("expected at least one group, got none".to_owned())) };
    let mut arrays = Arrays::default();
    for offsets in
        [&mut arrays.group_offsets, &mut arrays.prefix_offsets, &mut arrays.token_offsets, &mut arrays.rest_offsets]
    {
        offsets.push(0);
    }
    for recorded in groups {
        if recorded.model.sha256 != first.model.sha256 {
            let (one, other) = (first.model.clone(), recorded.model.clone());
            return Err(Error::TwoModels { path: path.to_owned(), one, other });
        }
        arrays.push(&recorded.group);
    }
    // One entry, because the library writes metadata in the order of a hash map.
    let about = json!({"format": FORMAT, "model": first.model}).to_string();
    let tensors = arrays.tensors();
    let views = tensors
        .iter()
        .map(|(name, dtype, bytes)| {
            let length = bytes.len() / dtype.bitsize().div_ceil(8);
            TensorView::new(*dtype, vec![length], bytes).map(|view| (*name, view))
        })
        .collect::<std::result::Result<Vec<_>, _>>();
    let views = views.map_err(|error| malformed(error.to_string()))?;
    safetensors::serialize(views, Some([(METADATA_KEY.to_owned(), about)].into())).map_err(|e| malformed(e.to_string()))
}

impl Arrays {
    fn push(&mut self, group: &CritiqueGroup) {
        for critique in &group.critiques {
            self.token_ids.extend(&critique.completion.ids);
            self.log_probs.extend(&critique.completion.log_probs);
            self.token_offsets.push(self.token_ids.len() as i64);
            self.utilities.push(critique.utility);
            self.versions.push(critique.completion.version.0.cast_signed());
        }
        self.group_offsets.push(self.utilities.len() as i64);
        self.prefix_ids.extend(&group.prefix_ids);
        self.prefix_offsets.push(self.prefix_ids.len() as i64);
        self.episodes.push(group.episode.0.cast_signed());
        let mut rest = serde_json::to_value(group).expect("strings and numbers are always JSON");
        remove(&mut rest, &GROUP_ARRAYS);
        for critique in rest["critiques"].as_array_mut().into_iter().flatten() {
            remove(critique, &CRITIQUE_ARRAYS);
            remove(&mut critique["written"], &COMPLETION_ARRAYS);
        }
        self.rest.extend(rest.to_string().into_bytes());
        self.rest_offsets.push(self.rest.len() as i64);
    }

    fn tensors(&self) -> [(&'static str, Dtype, Vec<u8>); 11] {
        let longs = |values: &[i64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let ids = |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        [
            ("group_offsets", Dtype::I64, longs(&self.group_offsets)),
            ("prefix_ids", Dtype::U32, ids(&self.prefix_ids)),
            ("prefix_offsets", Dtype::I64, longs(&self.prefix_offsets)),
            ("token_ids", Dtype::U32, ids(&self.token_ids)),
            ("log_probs", Dtype::F32, floats(&self.log_probs)),
            ("token_offsets", Dtype::I64, longs(&self.token_offsets)),
            ("utilities", Dtype::F32, floats(&self.utilities)),
            ("versions", Dtype::I64, longs(&self.versions)),
            ("episodes", Dtype::I64, longs(&self.episodes)),
            ("rest", Dtype::U8, self.rest.clone()),
            ("rest_offsets", Dtype::I64, longs(&self.rest_offsets)),
        ]
    }
}

fn remove(value: &mut Value, keys: &[&str]) {
    if let Value::Object(map) = value {
        keys.iter().for_each(|key| drop(map.remove(*key)));
    }
}

/// Inserts `new` under `key`. A value that is not an object stays as it is: reading it as a group then fails.
fn insert(value: &mut Value, key: &str, new: Value) {
    if let Value::Object(map) = value {
        map.insert(key.to_owned(), new);
    }
}

pub(super) fn read(path: &Path) -> Result<Groups> {
    let bytes = disk::read(path, FILE_BYTES_MAX).map_err(Error::io(path))?;
    let file = File { path, tensors: formats::safetensors::parse(&bytes).map_err(|why| malformed(path, why))? };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| malformed(path, error))?;
    let about = header.metadata().as_ref().and_then(|metadata| metadata.get(METADATA_KEY));
    let about: Value = serde_json::from_str(about.map_or("null", String::as_str)).map_err(|e| malformed(path, e))?;
    if about["format"] != FORMAT {
        return Err(malformed(path, format!("expected format {FORMAT}, got {}", about["format"])));
    }
    let model: ModelId =
        serde_json::from_value(about["model"].clone()).map_err(|error| malformed(path, format!("model: {error}")))?;
    let groups = file.groups()?.into_iter().map(|group| RecordedGroup { model: model.clone(), group });
    Ok(Groups { groups: groups.collect(), ..Groups::default() })
}

fn malformed(path: &Path, why: impl ToString) -> Error {
    Error::Malformed { path: path.to_owned(), why: why.to_string() }
}

/// The tensors of a file.
struct File<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
}

impl File<'_> {
    fn array<const WIDTH: usize, T>(&self, name: &str, dtype: Dtype, of: fn([u8; WIDTH]) -> T) -> Result<Vec<T>> {
        let view = self.tensors.tensor(name).map_err(|error| malformed(self.path, format!("{name}: {error}")))?;
        if view.dtype() != dtype {
            return Err(malformed(self.path, format!("{name}: expected {dtype:?}, got {:?}", view.dtype())));
        }
        Ok(view.data().as_chunks().0.iter().map(|bytes| of(*bytes)).collect())
    }

    fn longs(&self, name: &str) -> Result<Vec<i64>> {
        self.array(name, Dtype::I64, i64::from_le_bytes)
    }

    /// The ranges between the offsets `name`, which must cover `length` in order; there must be `count` of them, if given.
    fn ranges(&self, name: &str, length: usize, count: Option<usize>) -> Result<Vec<std::ops::Range<usize>>> {
        let offsets = self.longs(name)?;
        let whole = offsets.first() == Some(&0) && offsets.last() == Some(&(length as i64)) && offsets.is_sorted();
        if !whole || count.is_some_and(|count| offsets.len() != count + 1) {
            return Err(malformed(self.path, format!("{name}: expected ascending offsets from 0 to {length}")));
        }
        Ok(offsets.windows(2).map(|pair| pair[0] as usize..pair[1] as usize).collect())
    }

    fn groups(&self) -> Result<Vec<CritiqueGroup>> {
        let [prefix_ids, token_ids] = [
            self.array("prefix_ids", Dtype::U32, u32::from_le_bytes)?,
            self.array("token_ids", Dtype::U32, u32::from_le_bytes)?,
        ];
        let log_probs = self.array("log_probs", Dtype::F32, f32::from_le_bytes)?;
        let utilities = self.array("utilities", Dtype::F32, f32::from_le_bytes)?;
        let (versions, episodes) = (self.longs("versions")?, self.longs("episodes")?);
        let rest = self.array("rest", Dtype::U8, |[byte]| byte)?;
        if log_probs.len() != token_ids.len() || versions.len() != utilities.len() {
            return Err(malformed(self.path, "expected a log-prob for each token and a version for each critique"));
        }
        let count = Some(episodes.len());
        let critiques = self.ranges("group_offsets", utilities.len(), count)?;
        let prefixes = self.ranges("prefix_offsets", prefix_ids.len(), count)?;
        let tokens = self.ranges("token_offsets", token_ids.len(), Some(utilities.len()))?;
        let rests = self.ranges("rest_offsets", rest.len(), count)?;
        let group = |index: usize| -> Result<CritiqueGroup> {
            let wrong = |why: &dyn std::fmt::Display| malformed(self.path, format!("group {index}: {why}"));
            let mut value: Value =
                serde_json::from_slice(&rest[rests[index].clone()]).map_err(|error| wrong(&error))?;
            insert(&mut value, "episode", json!(episodes[index]));
            insert(&mut value, "prefix_ids", json!(prefix_ids[prefixes[index].clone()]));
            let own =
                value.get_mut("critiques").and_then(Value::as_array_mut).ok_or_else(|| wrong(&"expected critiques"))?;
            if own.len() != critiques[index].len() {
                return Err(wrong(&format!("expected {} critiques, got {}", critiques[index].len(), own.len())));
            }
            for (critique, place) in own.iter_mut().zip(critiques[index].clone()) {
                insert(critique, "utility", json!(utilities[place]));
                let written = critique.get_mut("written").ok_or_else(|| wrong(&"expected what was written"))?;
                insert(written, "ids", json!(token_ids[tokens[place].clone()]));
                insert(written, "log_probs", json!(log_probs[tokens[place].clone()]));
                insert(written, "version", json!(versions[place]));
            }
            let group: CritiqueGroup = serde_json::from_value(value).map_err(|error| wrong(&error))?;
            complaint(&group).map_or(Ok(group), |why| Err(wrong(&why)))
        };
        (0..episodes.len()).map(group).collect()
    }
}

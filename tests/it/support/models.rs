//! What the integration tests share: golden files, the tiny model, the real model.

use candle_core::Device;
use rco_node::formats;
use rco_node::formats::OpenedModel;
use rco_node::formats::source::Source;
use rco_node::kernels::{PassPrecisions, Precision};
use rco_node::transformer::load;
use rco_node::transformer::load::Loaded;
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A file or folder of `tests/golden`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The tiny random llama, loaded once.
pub fn tiny() -> &'static Loaded {
    static TINY: OnceLock<Loaded> = OnceLock::new();
    TINY.get_or_init(|| load::load(&golden("tiny_llama")).unwrap())
}

/// A section of the quickstart's config.
pub fn quickstart<T: serde::de::DeserializeOwned>(section: &str) -> T {
    let table: toml::Table = include_str!("../../../configs/quickstart.toml").parse().unwrap();
    table[section].clone().try_into().unwrap()
}

/// The quickstart's model, fetched and loaded once, in f32 for both passes.
pub fn smollm2() -> &'static Loaded {
    static REAL: OnceLock<Loaded> = OnceLock::new();
    REAL.get_or_init(|| load::load(&smollm2_path()).unwrap())
}

/// The quickstart's model for a decode pass of `precision` alone.
pub fn smollm2_in(precision: Precision) -> Loaded {
    smollm2_with(PassPrecisions::decode_only(precision))
}

/// The quickstart's model as the passes are to read it.
pub fn smollm2_with(precisions: PassPrecisions) -> Loaded {
    load::load_on(&smollm2_path(), &Device::Cpu, precisions).unwrap()
}

/// The quickstart's model, not yet loaded.
pub fn smollm2_opened() -> OpenedModel {
    formats::open(&smollm2_path()).unwrap()
}

fn smollm2_path() -> PathBuf {
    let table: toml::Table = quickstart("model");
    Source::parse(table["source"].as_str().unwrap()).unwrap().fetch().unwrap()
}

/// A golden safetensors file.
pub struct Numbers(Vec<u8>);

impl Numbers {
    pub fn read(name: &str) -> Self {
        Self(std::fs::read(golden(name)).unwrap())
    }

    fn bytes(&self, name: &str, dtype: Dtype) -> Vec<[u8; 4]> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), dtype, "{name}");
        tensor.data().chunks_exact(4).map(|bytes| bytes.try_into().unwrap()).collect()
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.bytes(name, Dtype::F32).into_iter().map(f32::from_le_bytes).collect()
    }

    pub fn u32(&self, name: &str) -> Vec<u32> {
        self.bytes(name, Dtype::U32).into_iter().map(u32::from_le_bytes).collect()
    }
}

/// The largest absolute difference.
pub fn farthest(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// `|got - expected| / |expected|` in the Euclidean norm.
pub fn relative(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(expected).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    difference / norm(&mut expected.iter().map(|&v| f64::from(v))).max(1e-30)
}

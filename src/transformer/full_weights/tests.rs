//! Promises of weight sets: nothing is lost or moved on the way through panels and files.

use super::*;
use crate::kernels::{PassPrecisions, Weight};
use crate::transformer::error::Error;
use std::collections::BTreeMap;
use std::path::Path;

const MODELS: [&str; 6] = ["llama", "llama_tied", "qwen2", "qwen3", "gemma3", "llama3"];

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/tiny_{name}"))
}

fn whole(name: &str) -> FullWeights {
    FullWeights::copy_of(&crate::transformer::load::load(&folder(name)).unwrap().transformer).unwrap()
}

#[test]
fn every_tensor_of_a_model_lies_in_one_slot_and_comes_back_from_it() {
    for name in MODELS {
        let opened = crate::formats::open(&folder(name)).unwrap();
        let (whole, spec) = (whole(name), opened.spec.clone());
        let mut found = BTreeMap::new();
        for block in ParamBlock::all(&spec) {
            assert_eq!(whole.block(block).len(), block.len(&spec), "{name}, {block:?}");
            let tensors = block.unpack(&spec, whole.block(block));
            let by_name: BTreeMap<_, _> =
                tensors.iter().map(|((name, _), data)| (name.clone(), data.clone())).collect();
            let again = block.pack(&spec, |name, _| Ok::<_, Error>(by_name[name].clone())).unwrap();
            assert_eq!(again, whole.block(block), "{name}, {block:?}");
            found.extend(tensors.into_iter().map(|((name, shape), data)| (name, (shape, data))));
        }
        let expected = spec.tensors();
        assert_eq!(found.len(), expected.len(), "{name}");
        for (tensor, shape) in expected {
            let values = opened.weights.get(&tensor, &shape).unwrap();
            assert_eq!(found[&tensor], (shape, values.clone()), "{name}, {tensor}");
            assert_eq!(whole.tensor(&tensor), Some(values), "{name}, {tensor}");
        }
        assert_eq!(whole.tensor("model.layers.0.self_attn.rotary.weight"), None);
    }
}

#[test]
fn a_weight_set_comes_back_from_its_file_to_the_last_bit() {
    for name in MODELS {
        let mut whole = whole(name);
        // Norms of every size, small and negative ones too.
        whole.for_each_block_mut(|_, values| {
            let odd = |(index, value): (usize, &mut f32)| {
                if *value != 0.0 {
                    *value *= (index as f32 * 0.7).sin()
                }
            };
            values.iter_mut().enumerate().for_each(odd);
        });
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = vec![];
        write(&whole, &mut bytes).unwrap();
        std::fs::write(dir.path().join(WEIGHTS_FILE), &bytes).unwrap();
        let read = CriticWeights::load(dir.path(), whole.spec()).unwrap();
        assert!(read.full() == Some(&whole), "{name}");
        assert!(read != CriticWeights::from(super::tests::whole(name)), "{name}: and a changed set is another one");
        let other = ModelSpec { intermediate: whole.spec().intermediate + 4, ..whole.spec().clone() };
        assert!(CriticWeights::load(dir.path(), &other).unwrap_err().to_string().contains("expected shape"));
    }
}

#[test]
fn a_copy_shares_nothing_and_a_tied_head_stays_the_embedding() {
    for name in ["llama_tied", "llama"] {
        let model = crate::transformer::load::load(&folder(name)).unwrap().transformer;
        let base = FullWeights::copy_of(&model).unwrap();
        let mut copy = base.copied();
        copy.for_each_block_mut(|block, values| {
            if block == ParamBlock::Embedding {
                values.fill(0.5);
            }
        });
        assert!(base == FullWeights::copy_of(&model).unwrap() && copy != base, "{name}");
        let stack = copy.stack();
        let head = stack.head().in_f32().values();
        assert_eq!(head.iter().all(|value| *value == 0.5), name == "llama_tied", "{name}");
    }
}

#[test]
fn weights_packed_for_serving_are_those_that_a_file_of_them_would_give() {
    let whole = whole("qwen2");
    let rows = whole.tensor("model.layers.1.mlp.down_proj.weight").unwrap();
    let inputs = whole.spec().intermediate;
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let served = whole.for_decode(precision);
        let expected = Weight::new(&[&rows], inputs, PassPrecisions::decode_only(precision));
        let x: Vec<f32> = (0..2 * inputs).map(|i| (i as f32 * 0.3).sin()).collect();
        let mut found = [vec![0.0; 2 * expected.outputs()], vec![0.0; 2 * expected.outputs()]];
        served.layer(1).down.decode(&x, &mut found[0]);
        expected.decode(&x, &mut found[1]);
        assert_eq!(found[0], found[1], "{precision}");
    }
}

//! Adapters of every shape that trainers write, against PEFT: patterns of ranks and scales, chosen layers, expressions,
//! embedding and head.
//!
//! The program that made the numbers: `tests/golden/adapters.py`.

use crate::numbers::passes::{decode, of_next, score};
use crate::support::models::{Numbers, farthest, golden};
use rco_node::export::{Dtype, MergedLayout, ModelCard, write_merged};
use rco_node::formats::adapter::Adapter;
use rco_node::transformer::load::{Loaded, load};
use rco_node::types::ModelId;

/// Each adapter with its base.
const ADAPTERS: [(&str, &str); 7] = [
    ("patterns", "tiny_llama3"),
    ("rslora", "tiny_llama3"),
    ("layers", "tiny_llama3"),
    ("expression", "tiny_gemma3"),
    ("ends", "tiny_llama3"),
    ("tied_ends", "tiny_gemma3"),
    ("tied_head", "tiny_gemma3"),
];

fn read(name: &str, base: &str) -> (Loaded, Adapter, Numbers) {
    let model = load(&golden(base)).unwrap();
    let adapter = Adapter::load(&golden(&format!("adapters/{name}")), model.transformer.spec()).unwrap();
    (model, adapter, Numbers::read(&format!("adapters/{name}.safetensors")))
}

#[test]
fn adapters_trained_elsewhere_give_the_log_probs_of_peft() {
    for (name, base) in ADAPTERS {
        let (model, adapter, numbers) = read(name, base);
        for i in 0..2 {
            let (ids, expected) = (numbers.u32(&format!("ids.{i}")), numbers.f32(&format!("next.{i}")));
            assert!(farthest(&numbers.f32(&format!("plain.{i}")), &expected) > 0.1, "{name}: the adapter does nothing");
            let off = farthest(&of_next(&decode(&model, &ids, Some(&adapter), 16), &ids), &expected);
            assert!(off < 2e-5, "{name}: decode, sequence {i}: {off}");
            let off = farthest(&score(&model, &ids, Some(&adapter)), &expected);
            assert!(off < 2e-5, "{name}: score, sequence {i}: {off}");
        }
    }
}

#[test]
fn an_adapter_from_elsewhere_is_saved_and_merged_as_it_computes() {
    let place = tempfile::tempdir().unwrap();
    for (name, base) in ADAPTERS {
        let (model, adapter, numbers) = read(name, base);
        let folder = place.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        adapter.save(&folder, base, model.transformer.spec()).unwrap();
        let again = Adapter::load(&folder, model.transformer.spec()).unwrap();
        assert_eq!((&again.config, &again.factors), (&adapter.config, &adapter.factors), "{name}");
        assert_eq!((&again.ends.embedding, &again.ends.head), (&adapter.ends.embedding, &adapter.ends.head), "{name}");

        let whole = place.path().join(format!("{name}-merged"));
        let id = ModelId { name: base.to_owned(), sha256: String::new() };
        let layout = MergedLayout { dtype: Dtype::F32, shard_bytes: 1 << 30 };
        let card = ModelCard::default();
        write_merged(&whole, &golden(base), Some(&adapter.into()), (&id, &card), layout).unwrap();
        let merged = load(&whole).unwrap();
        let ids = numbers.u32("ids.0");
        let off = farthest(&score(&merged, &ids, None), &numbers.f32("next.0"));
        assert!(off < 2e-5, "{name}, merged: {off}");
    }
}

#[test]
fn an_adapter_that_brings_another_embedding_is_refused() {
    let (_, adapter, _) = read("ends", "tiny_llama3");
    let mut other = adapter.clone();
    other.ends.brought[0].values[7] += 0.5;
    let model = load(&golden("tiny_llama3")).unwrap().transformer;
    assert!(model.pack(&adapter.into()).is_ok());
    let error = model.pack(&other.into()).unwrap_err().to_string();
    assert!(error.contains("another embedding than the model (row 7") && error.contains("merge_and_unload"), "{error}");
}

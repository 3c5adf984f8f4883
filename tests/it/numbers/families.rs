//! Every family against transformers and peft, on tiny random models: both passes, adapters, gradients, files.
//!
//! The program that made the numbers: `tests/golden/tiny_families.py`.

use crate::numbers::passes::{decode, log_probs, of_next, score};
use crate::support::models::{Numbers, farthest, golden, relative};
use rco_node::formats;
use rco_node::formats::adapter::{Adapter, Factors};
use rco_node::formats::spec::Projection;
use rco_node::transformer;
use rco_node::transformer::load;
use rco_node::transformer::load::Loaded;
use rco_node::transformer::{score, score::ActivationPolicy, score::Packed, score::ScoreAdapter};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

const FAMILIES: [&str; 9] = ["qwen2", "qwen3", "gemma3", "llama3", "mistral", "phi3", "smollm3", "olmo2", "granite"];
/// Ids that both golden sequences begin with.
const PREFIX: usize = 24;

fn folder(family: &str) -> Loaded {
    load::load(&golden(&format!("tiny_{family}"))).unwrap()
}

fn numbers(family: &str) -> Numbers {
    Numbers::read(&format!("tiny_{family}_numbers.safetensors"))
}

fn adapter(family: &str, model: &Loaded) -> Adapter {
    Adapter::load(&golden(&format!("tiny_{family}_lora")), model.transformer.spec()).unwrap()
}

/// Both passes over both sequences give the golden log-probs `name.i`.
fn assert_next(model: &Loaded, family: &str, name: &str, adapter: Option<&Adapter>) {
    let numbers = numbers(family);
    for i in 0..2 {
        let (ids, expected) = (numbers.u32(&format!("ids.{i}")), numbers.f32(&format!("{name}.{i}")));
        let off = farthest(&of_next(&decode(model, &ids, adapter, 16), &ids), &expected);
        assert!(off < 1e-5, "{family} {name}: decode, sequence {i}: {off}");
        let off = farthest(&score(model, &ids, adapter), &expected);
        assert!(off < 1e-5, "{family} {name}: score, sequence {i}: {off}");
    }
}

#[test]
fn both_passes_give_the_log_probs_of_transformers_for_every_family() {
    for family in FAMILIES {
        let (model, numbers) = (folder(family), numbers(family));
        let (ids, expected) = (numbers.u32("ids.0"), numbers.f32("logprobs"));
        for chunk in [1, 7, 40] {
            let off = farthest(&decode(&model, &ids, None, chunk), &expected);
            assert!(off < 1e-5, "{family}: decode, chunks of {chunk}: {off}");
        }
        assert_next(&model, family, "next", None);
    }
}

#[test]
fn texts_packed_behind_a_prefix_see_their_own_window() {
    for family in FAMILIES {
        let (model, numbers) = (folder(family), numbers(family));
        let ids = [numbers.u32("ids.0"), numbers.u32("ids.1")];
        let expected = [&numbers.f32("next.0")[PREFIX - 1..], &numbers.f32("next.1")[PREFIX - 1..]].concat();
        let packed = [Packed { prefix: &ids[0][..PREFIX], texts: vec![&ids[0][PREFIX..], &ids[1][PREFIX..]] }];
        let off = farthest(&log_probs(&model, &packed, None), &expected);
        assert!(off < 1e-5, "{family}: {off}");
    }
}

#[test]
fn an_adapter_of_peft_gives_its_log_probs_and_gradients_in_every_family() {
    for family in FAMILIES {
        let (model, numbers) = (folder(family), numbers(family));
        let adapter = adapter(family, &model);
        assert_next(&model, family, "lora", Some(&adapter));

        let ids = [numbers.u32("ids.0"), numbers.u32("ids.1")];
        let packed = [Packed { prefix: &ids[0][..PREFIX], texts: vec![&ids[0][PREFIX..], &ids[1][PREFIX..]] }];
        let branches = ScoreAdapter::new(&model.transformer, &adapter).unwrap();
        for policy in [ActivationPolicy::KeepAll, ActivationPolicy::Recompute] {
            let batch = score::ScoreBatch { packed: &packed, temperature: 1.0 };
            let recorded = score::record(&model.transformer, batch, &branches, policy).unwrap();
            let first = ids[0].len() - PREFIX;
            let count = recorded.scored.log_probs.len();
            let weights: Vec<f32> = (0..count).map(|i| if i < first { 1.0 } else { -0.5 }).collect();
            let gradients = recorded.backward(&weights).unwrap();
            assert!(gradients.factors.keys().eq(adapter.factors.keys()), "{family}: a gradient for every factor");
            let mut expected = 0;
            for (module, pair) in by_module(family, &gradients.factors) {
                for (factor, gradient) in [("A", &pair.a), ("B", &pair.b)] {
                    let name = format!("grad.base_model.model.model.layers.{module}.lora_{factor}.weight");
                    let off = relative(gradient, &numbers.f32(&name));
                    assert!(off < 1e-4, "{family}, {name}: {off}");
                    expected += 1;
                }
            }
            let linears = if family == "phi3" { 4 } else { 7 };
            assert_eq!(expected, 2 * linears * model.transformer.spec().layers, "{family}");
        }
    }
}

/// Gradients by the module that peft gives factors to. Where a family fuses linears, their factors share `A`, whose gradient is
/// the sum of theirs, and have the rows of `B` one below the other.
fn by_module(family: &str, factors: &BTreeMap<(usize, Projection), Factors>) -> BTreeMap<String, Factors> {
    let mut modules: BTreeMap<String, Factors> = BTreeMap::new();
    for ((layer, site), pair) in factors {
        let name = match (family, site) {
            ("phi3", Projection::QProj | Projection::KProj | Projection::VProj) => "qkv_proj",
            ("phi3", Projection::GateProj | Projection::UpProj) => "gate_up_proj",
            _ => site.name(),
        };
        let whole = modules.entry(format!("{layer}.{}.{name}", site.module())).or_default();
        whole.a.resize(pair.a.len(), 0.0);
        whole.a.iter_mut().zip(&pair.a).for_each(|(sum, a)| *sum += a);
        whole.b.extend(&pair.b);
    }
    modules
}

/// The tiny model of `family` with other words in its config.
fn changed(family: &str, change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> transformer::Result<Loaded> {
    let copy = tempfile::tempdir().unwrap();
    let from = golden(&format!("tiny_{family}"));
    for file in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(from.join(file), copy.path().join(file)).unwrap();
    }
    let mut config = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(copy.path().join("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
    load::load(copy.path())
}

#[test]
fn what_a_config_says_of_windows_bases_and_scales_is_what_is_computed() {
    for family in FAMILIES {
        let path = golden(&format!("tiny_{family}_variant.json"));
        let keys: serde_json::Map<String, Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let model = changed(family, |config| {
            for (key, value) in keys {
                if value.is_null() {
                    config.remove(&key)
                } else {
                    config.insert(key, value)
                };
            }
        });
        assert_next(&model.unwrap(), family, "variant", None);
    }
}

#[test]
fn a_gguf_file_holds_the_same_model_as_the_folder_it_was_made_of() {
    for family in FAMILIES {
        let file = formats::open(&golden(&format!("tiny_{family}.f32.gguf"))).unwrap();
        let folder = formats::open(&golden(&format!("tiny_{family}"))).unwrap();
        for (name, shape) in folder.spec.tensors() {
            assert_eq!(file.weights.get(&name, &shape).unwrap(), folder.weights.get(&name, &shape).unwrap(), "{name}");
        }
        let frequencies = |spec: &formats::spec::ModelSpec| spec.rotary.frequencies.clone();
        let pairs = std::iter::zip(frequencies(&file.spec), frequencies(&folder.spec));
        // Quotients in one, the numbers themselves in the other.
        assert!(pairs.into_iter().all(|(a, b)| (a / b - 1.0).abs() < 2e-7), "{family}");
        // Windows have the frequencies of the other layers, and a file calls a mistral a llama.
        let rotary = folder.spec.rotary.clone();
        let sliding = file.spec.sliding.map(|sliding| formats::spec::Sliding {
            rotary: folder.spec.sliding.as_ref().unwrap().rotary.clone(),
            ..sliding
        });
        let magnitudes = (file.spec.rotary.magnitude / rotary.magnitude - 1.0).abs();
        assert!(magnitudes < 1e-6, "{family}: {magnitudes}");
        let own = folder.spec.family;
        assert_eq!(formats::spec::ModelSpec { rotary, sliding, family: own, ..file.spec }, folder.spec, "{family}");
        assert_next(&load::load(&golden(&format!("tiny_{family}.f32.gguf"))).unwrap(), family, "next", None);
    }
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    document: Vec<u32>,
    decoded: String,
}

#[test]
fn a_sentencepiece_vocabulary_gives_the_ids_of_transformers() {
    let golden_ids = std::fs::read(golden("tiny_tokenizers.json")).unwrap();
    let families: BTreeMap<String, Vec<Text>> = serde_json::from_slice(&golden_ids).unwrap();
    assert_eq!(families.len(), 2);
    for (family, texts) in families {
        let tokenizer = formats::open(&golden(&format!("tiny_{family}.f32.gguf"))).unwrap().tokenizer;
        for Text { text, ids, document, decoded } in texts {
            assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{family}: {text:?}");
            assert_eq!(tokenizer.encode_document(&text).unwrap(), document, "{family}: {text:?}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), decoded, "{family}: {text:?}");
        }
    }
}

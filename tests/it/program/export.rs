//! What is exported computes what the node computes: read back by our own loaders.
//!
//! The same files against PEFT, transformers and llama.cpp: `tests/golden/export.py`, by hand.

use crate::numbers::passes::score;
use crate::support::models::{Numbers, farthest, golden};
use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use rco_node::checkpoint::{self, Snapshot};
use rco_node::export::{Dtype, Error, MergedLayout, ModelCard, write_lora_gguf, write_merged, write_peft};
use rco_node::formats;
use rco_node::formats::adapter::{Adapter, Factors};
use rco_node::formats::spec::Projection;
use rco_node::transformer::full_weights::CriticWeights;
use rco_node::transformer::load;
use rco_node::transformer::load::Loaded;
use rco_node::types::CriticVersion;
use rco_node::types::ModelId;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use std::process::Command;

const FAMILIES: [&str; 4] = ["qwen2", "qwen3", "gemma3", "llama3"];
const WHOLE: MergedLayout = MergedLayout { dtype: Dtype::F32, shard_bytes: 1 << 30 };

fn base() -> ModelId {
    ModelId { name: "owner/base".into(), sha256: "ab".repeat(32) }
}

fn adapter(family: &str, model: &Loaded) -> Adapter {
    Adapter::load(&golden(&format!("tiny_{family}_lora")), model.transformer.spec()).unwrap()
}

/// 40 ids of the tiny tokenizer.
fn ids() -> Vec<u32> {
    Numbers::read("tiny_qwen2_numbers.safetensors").u32("ids.0")[..40].to_vec()
}

/// The names in `folder`, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_merged_folder_gives_the_log_probs_of_base_and_adapter_for_every_family_and_kind_of_file() {
    let place = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        for source in [format!("tiny_{family}"), format!("tiny_{family}.f32.gguf")] {
            let path = golden(&source);
            let model = load::load(&path).unwrap();
            let adapter = adapter(family, &model);
            for adapter in [None, Some(&adapter)] {
                let out = place.path().join(format!("{source}-{}", adapter.is_some()));
                let critic = adapter.map(|adapter| CriticWeights::from(adapter.clone()));
                write_merged(&out, &path, critic.as_ref(), (&base(), &ModelCard::default()), WHOLE).unwrap();
                let again = load::load(&out).unwrap();
                let off = farthest(&score(&again, &ids(), None), &score(&model, &ids(), adapter));
                assert!(off < 1e-5, "{source}, adapter {}: {off}", adapter.is_some());
            }
            let changed = score(&model, &ids(), Some(&adapter));
            let effect = farthest(&changed, &score(&model, &ids(), None));
            assert!(effect > 0.01, "{source}: the adapter does nothing: {effect}");
        }
    }
}

#[test]
fn a_folder_made_from_gguf_reads_and_speaks_as_the_file_did() {
    let place = tempfile::tempdir().unwrap();
    for source in ["tiny_llama.f32.gguf", "tiny_gemma3.f32.gguf", "tiny_llama3.f32.gguf"] {
        let out = place.path().join(source);
        write_merged(&out, &golden(source), None, (&base(), &ModelCard::default()), WHOLE).unwrap();
        let (file, folder) = (formats::open(&golden(source)).unwrap(), formats::open(&out).unwrap());
        for text in ["", "a  tiny\ntext, 123", "<|im_start|>user\nhé 日本<|im_end|>", "   "] {
            let [one, other] = [&file, &folder].map(|opened| opened.tokenizer.encode_document(text).unwrap());
            assert_eq!(one, other, "{source}: {text:?}");
            assert_eq!(file.tokenizer.decode(&one).unwrap(), folder.tokenizer.decode(&one).unwrap());
        }
        assert_eq!(file.tokenizer.stop_ids(), folder.tokenizer.stop_ids());
        let turns = [serde_json::json!({"role": "user", "content": "x"})];
        let said =
            |opened: &formats::OpenedModel| opened.template.render(&turns, true).map_err(|error| error.to_string());
        match said(&file) {
            Ok(text) => assert_eq!(said(&folder).unwrap(), text),
            Err(_) => assert!(said(&folder).is_err()),
        }
    }
}

#[test]
fn shards_are_no_longer_than_asked_and_halves_are_near() {
    let place = tempfile::tempdir().unwrap();
    let path = golden("tiny_qwen2");
    let model = load::load(&path).unwrap();
    let adapter = adapter("qwen2", &model);
    let exact = score(&model, &ids(), Some(&adapter));
    let critic = CriticWeights::from(adapter);
    for (dtype, near) in [(Dtype::F32, 1e-5), (Dtype::Bf16, 0.1), (Dtype::F16, 0.02)] {
        let out = place.path().join(dtype.to_string());
        write_merged(
            &out,
            &path,
            Some(&critic),
            (&base(), &ModelCard::default()),
            MergedLayout { dtype, shard_bytes: 16 << 10 },
        )
        .unwrap();
        let shards: Vec<_> = names(&out).into_iter().filter(|name| name.ends_with(".safetensors")).collect();
        assert!(shards.len() > 1, "{shards:?}");
        for shard in &shards {
            let bytes = std::fs::read(out.join(shard)).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let held: usize = file.iter().map(|(_, view)| view.data().len()).sum();
            assert!(held <= 16 << 10 || file.len() == 1, "{shard} holds {held}");
            let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
            assert_eq!(header.metadata().as_ref().unwrap()["base_model"], "owner/base");
        }
        let off = farthest(&score(&load::load(&out).unwrap(), &ids(), None), &exact);
        assert!(off < near, "{dtype}: {off}");
    }
}

#[test]
fn a_number_that_a_half_cannot_hold_is_named() {
    let place = tempfile::tempdir().unwrap();
    let model = load::load(&golden("tiny_qwen2")).unwrap();
    let mut adapter = adapter("qwen2", &model);
    adapter.factors.get_mut(&(1, Projection::UpProj)).unwrap().b.iter_mut().for_each(|b| *b *= 1e6);
    let (shape, critic) = (MergedLayout { dtype: Dtype::F16, ..WHOLE }, CriticWeights::from(adapter));
    let error = write_merged(
        &place.path().join("out"),
        &golden("tiny_qwen2"),
        Some(&critic),
        (&base(), &ModelCard::default()),
        shape,
    )
    .unwrap_err();
    assert!(matches!(&error, Error::Overflow { name, .. } if name == "model.layers.1.mlp.up_proj.weight"), "{error}");
    assert!(names(place.path()).is_empty(), "half an output was left");
}

#[test]
fn what_is_there_already_stays() {
    let place = tempfile::tempdir().unwrap();
    let model = load::load(&golden("tiny_qwen2")).unwrap();
    let (adapter, spec) = (adapter("qwen2", &model), model.transformer.spec());
    let out = place.path().join("out");
    std::fs::write(&out, "mine").unwrap();
    let errors = [
        write_peft(&out, &adapter, spec, &base(), &ModelCard::default()),
        write_merged(&out, &golden("tiny_qwen2"), None, (&base(), &ModelCard::default()), WHOLE),
        write_lora_gguf(&out, &adapter, spec, &base()),
    ];
    for error in errors {
        assert!(matches!(error, Err(Error::Taken(path)) if path == out));
    }
    assert_eq!(std::fs::read(&out).unwrap(), b"mine");
    assert_eq!(names(place.path()), ["out"]);
}

#[test]
fn an_exported_adapter_is_the_same_adapter_and_names_its_base() {
    let place = tempfile::tempdir().unwrap();
    let model = load::load(&golden("tiny_gemma3")).unwrap();
    let (adapter, spec) = (adapter("gemma3", &model), model.transformer.spec());
    let out = place.path().join("deep/er/out");
    write_peft(&out, &adapter, spec, &base(), &ModelCard::default()).unwrap();
    assert_eq!(Adapter::load(&out, spec).unwrap(), adapter);
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(config["base_model_name_or_path"], "owner/base");
    let bytes = std::fs::read(out.join("adapter_model.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["base_model_sha256"], base().sha256);
}

/// A tensor of a GGUF file.
fn raw(path: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let mut file = std::fs::File::open(path).unwrap();
    let content = Content::read(&mut file).unwrap();
    let tensor = content.tensor(&mut file, name, &Device::Cpu).unwrap().dequantize(&Device::Cpu).unwrap();
    (tensor.dims().to_vec(), tensor.flatten_all().unwrap().to_vec1().unwrap())
}

/// `W + alpha / rank B A` from the tensors of two files of llama.cpp, in their own order of rows.
fn merged_there(base: &Path, lora: &Path, name: &str) -> Vec<f32> {
    let mut file = std::fs::File::open(lora).unwrap();
    let Value::F32(alpha) = Content::read(&mut file).unwrap().metadata["adapter.lora.alpha"] else {
        panic!("no alpha")
    };
    let ((_, mut weight), (a_shape, a)) = (raw(base, name), raw(lora, &format!("{name}.lora_a")));
    let (b_shape, b) = raw(lora, &format!("{name}.lora_b"));
    let [rank, inputs] = a_shape[..] else { panic!("{a_shape:?}") };
    assert_eq!(b_shape, [weight.len() / inputs, rank]);
    for (row, b) in weight.chunks_mut(inputs).zip(b.chunks(rank)) {
        for (column, weight) in row.iter_mut().enumerate() {
            *weight += alpha / rank as f32 * (0..rank).map(|r| b[r] * a[r * inputs + column]).sum::<f32>();
        }
    }
    weight
}

#[test]
fn a_lora_file_added_to_its_base_file_is_the_merged_model() {
    let place = tempfile::tempdir().unwrap();
    for family in ["llama3", "qwen2"] {
        let path = golden(&format!("tiny_{family}.f32.gguf"));
        let model = load::load(&path).unwrap();
        let (adapter, spec) = (adapter(family, &model), model.transformer.spec().clone());
        let (lora, folder) = (place.path().join(format!("{family}.gguf")), place.path().join(family));
        write_lora_gguf(&lora, &adapter, &spec, &base()).unwrap();
        write_merged(&folder, &path, Some(&adapter.clone().into()), (&base(), &ModelCard::default()), WHOLE).unwrap();

        // A base file of the merged weights: every tensor of the other replaced, and read by our own loader.
        let mut file = std::fs::File::open(&path).unwrap();
        let content = Content::read(&mut file).unwrap();
        let replaced: Vec<_> = content
            .tensor_infos
            .keys()
            .map(|name| {
                let (shape, values) = match std::fs::File::open(&lora).map(|mut f| Content::read(&mut f).unwrap()) {
                    Ok(there) if there.tensor_infos.contains_key(&format!("{name}.lora_a")) => {
                        (raw(&path, name).0, merged_there(&path, &lora, name))
                    }
                    _ => raw(&path, name),
                };
                let tensor = candle_core::Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
                let kind = candle_core::quantized::GgmlDType::F32;
                (name.clone(), candle_core::quantized::QTensor::quantize(&tensor, kind).unwrap())
            })
            .collect();
        let tensors: Vec<_> = replaced.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let metadata: Vec<_> = content.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let there = place.path().join(format!("{family}-merged.gguf"));
        let mut out = std::fs::File::create(&there).unwrap();
        candle_core::quantized::gguf_file::write(&mut out, &metadata, &tensors).unwrap();

        let [one, other] = [&there, &folder].map(|path| score(&load::load(path).unwrap(), &ids(), None));
        assert!(farthest(&one, &other) < 1e-5, "{family}: {}", farthest(&one, &other));
        let off = farthest(&one, &score(&model, &ids(), Some(&adapter)));
        assert!(off < 1e-5, "{family}: {off}");
    }
}

#[test]
fn a_lora_file_says_what_llama_cpp_asks_for_and_whose_it_is() {
    let place = tempfile::tempdir().unwrap();
    let model = load::load(&golden("tiny_qwen3")).unwrap();
    let adapter = adapter("qwen3", &model);
    let out = place.path().join("adapter.gguf");
    write_lora_gguf(&out, &adapter, model.transformer.spec(), &base()).unwrap();
    let content = Content::read(&mut std::fs::File::open(&out).unwrap()).unwrap();
    for (key, expected) in [
        ("general.type", "adapter"),
        ("general.architecture", "qwen3"),
        ("adapter.type", "lora"),
        ("general.base_model.0.name", "owner/base"),
    ] {
        assert_eq!(content.metadata[key].to_string().unwrap(), expected, "{key}");
    }
    assert!(content.metadata["general.base_model.0.description"].to_string().unwrap().contains(&base().sha256));
    assert_eq!(content.metadata["adapter.lora.alpha"].to_f32().unwrap(), adapter.config.alpha);
    assert_eq!(content.tensor_infos.len(), 2 * adapter.factors.len());
    let Factors { a, .. } = &adapter.factors[&(1, Projection::OProj)];
    assert_eq!(&raw(&out, "blk.1.attn_output.weight.lora_a").1, a);
}

/// A run directory with checkpoints of steps 1 and 2 of an adapter, the second's `B` doubled.
fn run_directory(place: &Path, adapter: &Adapter, model: &Loaded) -> PathBuf {
    let run = place.join("run");
    for step in 1..=2 {
        let mut adapter = adapter.clone();
        adapter.factors.values_mut().flat_map(|pair| &mut pair.b).for_each(|b| *b *= step as f32);
        let snapshot = Snapshot {
            step,
            version: CriticVersion(step),
            critic: adapter.into(),
            served: None,
            optimizer: vec![],
            state: serde_json::Value::Null,
            config: format!("[model]\nsource = {:?}\n", golden("tiny_qwen2").to_str().unwrap()),
        };
        checkpoint::write(&run.join("checkpoints"), &snapshot, model.transformer.spec(), "x", 5).unwrap();
    }
    run
}

#[test]
fn the_program_exports_a_runs_checkpoint_on_the_model_it_was_trained_on() {
    let place = tempfile::tempdir().unwrap();
    let model = load::load(&golden("tiny_qwen2")).unwrap();
    let adapter = adapter("qwen2", &model);
    let run = run_directory(place.path(), &adapter, &model);
    let export = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rco-node"));
        let command = command.current_dir(place.path()).env("RCO_LOG", "warn").arg("export").args(arguments);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    };
    let run = run.to_str().unwrap();
    assert_eq!(export(&["--to", "peft", "--run", run, "--step", "1", "one"]), (Some(0), "one\n".into()));
    assert_eq!(Adapter::load(&place.path().join("one"), model.transformer.spec()).unwrap(), adapter);
    assert_eq!(export(&["--to", "peft", "--run", run, "two"]).0, Some(0));
    let two = Adapter::load(&place.path().join("two"), model.transformer.spec()).unwrap();
    assert_eq!(two.factors[&(0, Projection::VProj)].b[0], 2.0 * adapter.factors[&(0, Projection::VProj)].b[0]);
    assert_eq!(export(&["--to", "merged", "--run", run, "--base-name", "mine", "whole"]).0, Some(0));
    let off = farthest(
        &score(&load::load(&place.path().join("whole")).unwrap(), &ids(), None),
        &score(&model, &ids(), Some(&two)),
    );
    assert!(off < 1e-5, "{off}");
    assert_eq!(
        export(&["--to", "gguf-lora", "--adapter", "one", "--model", golden("tiny_qwen2").to_str().unwrap(), "x.gguf"])
            .0,
        Some(0)
    );

    let first = format!("{run}@1");
    for (arguments, code, says) in [
        (&["--to", "peft", "--run", run, "one"][..], 2, "one is there already"),
        (
            &["--to", "peft", "--run", run, "--step", "7", "seven"],
            6,
            "no checkpoint of step 7: there are those of steps 1, 2",
        ),
        (&["--to", "peft", "--run", first.as_str(), "--step", "2", "none"], 2, "--step 2: expected none beside"),
        (&["--to", "peft", "none"], 2, "--adapter or --run"),
        (&["--to", "merged", "--adapter", "nowhere", "--model", "one", "none"], 2, "--adapter: expected the folder of"),
        (&["--to", "merged", "--adapter", "one", "--model", "one", "none"], 3, "config.json"),
    ] {
        let (got, text) = export(arguments);
        assert!(got == Some(code) && text.contains(says), "{arguments:?}: {got:?} {text}");
    }
}

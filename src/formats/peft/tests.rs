//! Promises of the adapter folder, held against a folder that PEFT wrote.
use super::*;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// The llama of tests/golden/peft_roundtrip.py.
fn spec() -> ModelSpec {
    ModelSpec {
        vocab: 64,
        hidden: 32,
        intermediate: 48,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        norm_epsilon: 1e-6,
        context_tokens: 2048,
        tied: false,
        ..crate::formats::spec::tests::tiny()
    }
}

/// Shapes of A and B: `(rank, inputs)`, `(outputs, rank)`.
fn shapes(projection: Projection, rank: usize, spec: &ModelSpec) -> ([usize; 2], [usize; 2]) {
    let (inputs, outputs) = projection.sizes(spec);
    ([rank, inputs], [outputs, rank])
}

/// As PEFT names a factor.
fn tensor_name(layer: usize, projection: Projection, factor: char) -> String {
    format!("base_model.model.model.layers.{layer}.{}.{}.lora_{factor}.weight", projection.module(), projection.name())
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/peft_adapter")
}

fn adapter(alpha: f32, targets: &[Projection]) -> Adapter {
    let config = LoraConfig { rank: 3, alpha, rslora: false, targets: targets.to_vec() };
    let spec = spec();
    let fill = |salt: usize, count: usize| (0..count).map(|i| ((i * 31 + salt) as f32 * 0.37).sin() / 3.0).collect();
    let places = (0..spec.layers).flat_map(|layer| targets.iter().map(move |projection| (layer, *projection)));
    let factors = places
        .map(|(layer, projection)| {
            let (a, b) = shapes(projection, 3, &spec);
            let salt = layer * 7 + projection as usize;
            ((layer, projection), Factors { a: fill(salt, a[0] * a[1]), b: fill(salt + 100, b[0] * b[1]) })
        })
        .collect();
    Adapter::new(config, factors)
}

/// PEFT's own folder with `edit` applied to its config.
fn edited(edit: impl FnOnce(&mut Map<String, Value>)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut json: Map<String, Value> =
        serde_json::from_slice(&std::fs::read(golden().join(CONFIG_FILE)).unwrap()).unwrap();
    edit(&mut json);
    std::fs::write(dir.path().join(CONFIG_FILE), serde_json::to_vec(&json).unwrap()).unwrap();
    std::fs::copy(golden().join(WEIGHTS_FILE), dir.path().join(WEIGHTS_FILE)).unwrap();
    dir
}

#[test]
fn an_adapter_of_peft_is_read_value_by_value() {
    let adapter = Adapter::load(&golden(), &spec()).unwrap();
    assert_eq!((adapter.config.rank, adapter.config.alpha), (4, 6.0));
    assert_eq!(
        adapter.config.targets,
        [Projection::QProj, Projection::VProj, Projection::OProj, Projection::GateProj, Projection::DownProj]
    );
    assert_eq!(adapter.factors.len(), 10);
    let numbers: BTreeMap<String, Value> =
        serde_json::from_slice(&std::fs::read(golden().join("golden.json")).unwrap()).unwrap();
    assert_eq!(numbers.len(), 20);
    for ((layer, projection), factors) in &adapter.factors {
        let (a, b) = shapes(*projection, 4, &spec());
        for (factor, data, shape) in [('A', &factors.a, a), ('B', &factors.b, b)] {
            let golden = &numbers[&tensor_name(*layer, *projection, factor)];
            assert_eq!(golden["shape"], json!(shape));
            assert_eq!(golden["first"], json!(data[0]));
            assert_eq!(golden["last"], json!(data[data.len() - 1]));
            assert_eq!(golden["row_1"], json!(&data[shape[1]..2 * shape[1]]));
        }
    }
}

#[test]
fn what_is_saved_is_loaded_bit_for_bit() {
    for adapter in [adapter(32.0, &Projection::ALL), adapter(2.7, &[Projection::KProj, Projection::UpProj])] {
        let dir = tempfile::tempdir().unwrap();
        adapter.save(dir.path(), "some/model", &spec()).unwrap();
        assert_eq!(Adapter::load(dir.path(), &spec()).unwrap(), adapter);
    }
}

#[test]
fn a_saved_folder_has_the_config_keys_of_peft_with_its_values() {
    let dir = tempfile::tempdir().unwrap();
    Adapter::load(&golden(), &spec()).unwrap().save(dir.path(), "some/model", &spec()).unwrap();
    let read = |dir: &Path| -> Map<String, Value> {
        serde_json::from_slice(&std::fs::read(dir.join(CONFIG_FILE)).unwrap()).unwrap()
    };
    let (mut ours, peft) = (read(dir.path()), read(&golden()));
    assert_eq!(ours.remove("base_model_name_or_path"), Some(json!("some/model")));
    let sorted = |value: &Value| {
        let mut list: Vec<_> = value.as_array().unwrap().iter().map(Value::to_string).collect();
        list.sort();
        list
    };
    assert_eq!(sorted(&ours.remove("target_modules").unwrap()), sorted(&peft["target_modules"]));
    for (key, value) in ours {
        assert_eq!(Some(&value), peft.get(&key), "{key}");
    }
}

#[test]
fn half_precision_factors_are_widened() {
    let exact = adapter(8.0, &[Projection::VProj]);
    for (dtype, tolerance) in [(Dtype::F16, 2e-4), (Dtype::BF16, 2e-3)] {
        let dir = tempfile::tempdir().unwrap();
        exact.save(dir.path(), "m", &spec()).unwrap();
        let wanted = if dtype == Dtype::F16 { DType::F16 } else { DType::BF16 };
        let tensors = candle_core::safetensors::load(dir.path().join(WEIGHTS_FILE), &Device::Cpu).unwrap();
        let halved: std::collections::HashMap<_, _> =
            tensors.into_iter().map(|(name, t)| (name, t.to_dtype(wanted).unwrap())).collect();
        candle_core::safetensors::save(&halved, dir.path().join(WEIGHTS_FILE)).unwrap();
        let read = Adapter::load(dir.path(), &spec()).unwrap();
        for (place, factors) in &exact.factors {
            let near =
                |x: &[f32], y: &[f32]| x.len() == y.len() && x.iter().zip(y).all(|(x, y)| (x - y).abs() < tolerance);
            assert!(near(&factors.a, &read.factors[place].a) && near(&factors.b, &read.factors[place].b));
            assert_ne!(factors.a, read.factors[place].a, "the file is really in {dtype:?}");
        }
    }
}

#[test]
fn what_would_compute_something_else_is_refused_with_what_to_do() {
    for (key, value, says) in [
        ("use_dora", json!(true), "merge_and_unload"),
        ("modules_to_save", json!(["lm_head"]), "merge_and_unload"),
        ("bias", json!("all"), "merge_and_unload"),
        ("lora_bias", json!(true), "merge_and_unload"),
        ("init_lora_weights", json!("pissa"), "path_initial_model_for_weight_conversion"),
        ("init_lora_weights", json!("pissa_niter_4"), "path_initial_model_for_weight_conversion"),
        ("init_lora_weights", json!("olora"), "path_initial_model_for_weight_conversion"),
        ("init_lora_weights", json!("loftq"), "merge_and_unload"),
        ("use_rslora", json!("yes"), "expected"),
        ("peft_type", json!("IA3"), "expected"),
        ("r", json!(0), "expected"),
        ("lora_alpha", json!("much"), "expected"),
        ("layers_pattern", json!("blocks"), "expected"),
        ("target_modules", json!([]), "expected"),
        ("target_modules", json!("(never"), "expected an expression"),
        ("target_modules", json!("x".repeat(5000)), "at most 4096 bytes"),
        ("target_modules", json!(["q_proj", "fc1"]), "got \"fc1\""),
        ("rank_pattern", json!({"q_proj": 0}), "expected 1 to"),
        ("alpha_pattern", json!({"q_proj": "a"}), "expected a number"),
    ] {
        let dir = edited(|json| {
            json.insert(key.to_owned(), value.clone());
        });
        let error = Adapter::load(dir.path(), &spec()).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains(says), "{key}: {error}");
    }
    for beginning in [json!(true), json!(false), json!(null), json!("gaussian"), json!("eva")] {
        let dir = edited(|json| {
            json.insert("init_lora_weights".to_owned(), beginning.clone());
        });
        assert!(Adapter::load(dir.path(), &spec()).is_ok(), "{beginning}");
    }
    let pickled = edited(|_| {});
    std::fs::rename(pickled.path().join(WEIGHTS_FILE), pickled.path().join(PICKLE_FILE)).unwrap();
    let error = Adapter::load(pickled.path(), &spec()).unwrap_err().to_string();
    assert!(error.contains("pickle") && error.contains("safe_serialization=True"), "{error}");
}

#[test]
fn factors_of_fused_linears_come_back_apart() {
    let fused = ModelSpec { layer_spec: crate::formats::spec::Family::Phi3.layer_spec(), ..spec() };
    for adapter in [adapter(2.7, &Projection::ALL), adapter(6.0, &[Projection::QProj, Projection::DownProj])] {
        let dir = tempfile::tempdir().unwrap();
        adapter.save(dir.path(), "m", &fused).unwrap();
        let read = Adapter::load(dir.path(), &fused).unwrap();
        for (place, factors) in &adapter.factors {
            assert_eq!(&read.factors[place], factors, "{place:?}");
        }
        assert_eq!((read.config.rank, read.config.scale()), (3, adapter.config.scale()));
    }
}

#[test]
fn a_factor_too_few_too_many_or_of_another_shape_is_named() {
    let keep = |targets: Value| {
        edited(|json| {
            json.insert("target_modules".to_owned(), targets);
        })
    };
    let more = keep(json!(["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]));
    let error = Adapter::load(more.path(), &spec()).unwrap_err();
    assert!(matches!(&error, Error::MissingTensor { name, .. } if name.contains("k_proj.lora_A")), "{error}");

    let fewer = keep(json!(["q_proj", "v_proj", "o_proj", "gate_proj"]));
    let error = Adapter::load(fewer.path(), &spec()).unwrap_err();
    assert!(matches!(&error, Error::Malformed { why, .. } if why.contains("down_proj")), "{error}");

    let deeper = ModelSpec { layers: 3, ..spec() };
    let error = Adapter::load(&golden(), &deeper).unwrap_err();
    assert!(matches!(&error, Error::MissingTensor { name, .. } if name.contains("layers.2.")), "{error}");

    let wider = ModelSpec { intermediate: 64, ..spec() };
    let error = Adapter::load(&golden(), &wider).unwrap_err();
    assert!(matches!(&error, Error::Shape { expected, got, .. } if expected[0] == 64 && got[0] == 48), "{error}");
}

#[test]
fn an_adapter_that_does_not_fit_the_model_is_not_saved() {
    let dir = tempfile::tempdir().unwrap();
    let mut short = adapter(8.0, &[Projection::QProj]);
    short.factors.get_mut(&(1, Projection::QProj)).unwrap().b.pop();
    assert!(matches!(short.save(dir.path(), "m", &spec()), Err(Error::Shape { .. })));
    let mut holed = adapter(8.0, &[Projection::QProj]);
    holed.factors.clear();
    assert!(matches!(holed.save(dir.path(), "m", &spec()), Err(Error::MissingTensor { .. })));
    let mut stray = adapter(8.0, &[Projection::QProj]);
    stray.config.targets = vec![Projection::KProj];
    assert!(stray.save(dir.path(), "m", &spec()).is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

//! Promises of the config: one list of keys, and every mistake told at once.
use super::*;
use std::collections::BTreeSet;

/// Resolves a file's text.
fn file(text: &str) -> Result<Config, ConfigError> {
    Config::resolve(Some((Path::new("mine.toml"), text)), &[])
}

fn set(sets: &[&str]) -> Result<Config, ConfigError> {
    Config::resolve(None, &sets.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>())
}

fn complaints(outcome: Result<Config, ConfigError>) -> Vec<String> {
    match outcome {
        Err(ConfigError::Complaints(list)) => list,
        other => panic!("expected complaints, got {other:?}"),
    }
}

/// Every `section.key` of a TOML text, in the text's own order of tables.
fn keys(text: &str) -> BTreeSet<String> {
    fn walk(table: &toml::Table, path: &str, into: &mut BTreeSet<String>) {
        for (key, value) in table {
            let at = format!("{path}{key}");
            match value {
                toml::Value::Table(inner) => walk(inner, &format!("{at}."), into),
                _ => drop(into.insert(at)),
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(&toml::from_str(text).unwrap(), "", &mut found);
    found
}

#[test]
fn the_embedded_config_resolves_and_names_every_key_there_is() {
    let config = Config::resolve(None, &[]).unwrap();
    assert_eq!(keys(&config.to_toml()), keys(Config::embedded_text()));
    assert_eq!((config.rollout.critiques, config.learner.lora.rank), (16, 16));
    let whole: Config = toml::from_str(Config::embedded_text()).unwrap();
    assert_eq!(whole, config);
}

#[test]
fn every_config_that_comes_with_the_node_resolves() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty(), "nothing to resolve");
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        if let Err(error) = file(&text) {
            panic!("{}: {error}", path.display());
        }
    }
}

#[test]
fn no_key_can_be_left_out_of_the_default() {
    let default: toml::Table = toml::from_str(Config::embedded_text()).unwrap();
    for key in keys(Config::embedded_text()) {
        let mut less = default.clone();
        let (section, leaf) = key.rsplit_once('.').unwrap();
        let table = section.split('.').fold(&mut less, |table, part| table[part].as_table_mut().unwrap());
        table.remove(leaf).unwrap();
        assert!(less.try_into::<Config>().is_err(), "{key} has a default outside of the embedded config");
    }
}

#[test]
fn the_printed_config_resolves_to_the_same() {
    let config = set(&[
        "learner.beta=0.3",
        "learner.learning_rate=3e-5",
        "critic.prompt=\"{{ prompt }}\\n'''{{ response }}\\\"\\\"\\\"\"",
        "generator.sampling.stop=[\"\\n\\n\", \"###\"]",
        "telemetry.address=",
    ])
    .unwrap();
    let text = config.to_toml();
    assert_eq!(file(&text).unwrap(), config);
    assert!(text.contains("beta = 0.3\n"), "a number is printed as it was written: {text}");
}

#[test]
fn a_file_overlays_the_default_and_set_overlays_the_file() {
    let text = "[engine]\nkv_cache_mib = 64\nsequences_max = 8\n[critic.sampling]\nmax_tokens = 30\n";
    let sets = ["engine.sequences_max = 16".to_owned(), "judge.kind=model".to_owned()];
    let config = Config::resolve(Some((Path::new("mine.toml"), text)), &sets).unwrap();
    assert_eq!((config.engine.kv_cache_mib, config.engine.sequences_max), (64, 16));
    assert_eq!((config.critic.sampling.max_tokens, config.critic.sampling.temperature), (30, 0.7));
    assert_eq!(config.judge.role.kind, crate::roles::judge::JudgeKind::Model);
}

#[test]
fn an_integer_is_taken_for_a_number_and_a_bare_word_for_a_string() {
    let config = file("[learner]\nbeta = 1\n[learner.lora]\nalpha = 8\n").unwrap();
    assert_eq!((config.learner.beta, config.learner.lora.alpha), (1.0, 8.0));
    let config = set(&["node.run_directory=runs/one", "generator.system=42", "prompts.file=\"a=b.jsonl\""]).unwrap();
    assert_eq!(config.node.run_directory, "runs/one");
    assert_eq!(config.generator.role.system, "42");
    assert_eq!(config.prompts.file, "a=b.jsonl");
    assert_eq!(set(&["prompts.file=a=b.jsonl"]).unwrap().prompts.file, "a=b.jsonl");
}

#[test]
fn a_wrong_type_is_told_with_both_types() {
    for (given, complaint) in [
        ("engine.kv_cache_mib=lots", "engine.kv_cache_mib: expected an integer, got the string \"lots\""),
        ("engine.kv_cache_mib=1.5", "engine.kv_cache_mib: expected an integer, got the number 1.5"),
        ("engine.kv_cache_mib=-1", "engine.kv_cache_mib: expected an integer of at least 0, got -1"),
        ("prompts.shuffle=1", "prompts.shuffle: expected true or false, got the integer 1"),
        ("critic.sampling=hot", "critic.sampling: expected a section, got the string \"hot\""),
        ("judge.sampling.stop=[\"a\", 2]", "judge.sampling.stop[1]: expected a string, got the integer 2"),
        ("judge.sampling.stop=a", "judge.sampling.stop: expected a list, got the string \"a\""),
        (
            "learner.baseline=worth",
            "learner.baseline: expected one of `vargrad`, `partition`, `mean`, `value`, got \"worth\"",
        ),
        ("model.device=gpu", "model.device: expected `auto`, `cpu` or `cuda:` and a number, got \"gpu\""),
        ("engine.kv=int4", "engine.kv: expected one of `auto`, `f32`, `bf16`, `int8`, got \"int4\""),
        ("judge.kind=jury", "judge.kind: expected one of `verifier`, `model`, `remote`, got \"jury\""),
        ("engine", "--set engine: expected section.key=value"),
    ] {
        assert_eq!(complaints(set(&[given])), [complaint]);
    }
    let unknown = complaints(set(&["learner.lora.targets=[\"q_proj\", \"lm_head\"]"]));
    assert!(unknown.len() == 1 && unknown[0].starts_with("learner.lora.targets: expected one of `q_proj`"));
    assert!(unknown[0].ends_with("got \"lm_head\""), "{unknown:?}");
    let huge = complaints(set(&["replay.uses_max=5000000000"]));
    assert!(huge.len() == 1 && huge[0].starts_with("replay.uses_max: "), "{huge:?}");
}

#[test]
fn an_unknown_key_is_refused_with_the_one_that_was_meant() {
    for (given, meant) in [
        ("engine.kv_cash_mib=1", "engine.kv_cash_mib: unknown key, did you mean engine.kv_cache_mib?"),
        ("lerner.beta=1", "lerner: unknown key, did you mean learner?"),
        ("learner.rank=8", "learner.rank: unknown key, did you mean learner.lora.rank?"),
        ("critic.sampling.top_q=1", "critic.sampling.top_q: unknown key, did you mean critic.sampling.top_k?"),
        (
            "checkpoint.verbosity=3",
            "checkpoint.verbosity: unknown key, expected one of every_seconds, groups_mib, keep, keep_best",
        ),
    ] {
        assert_eq!(complaints(set(&[given])), [meant]);
    }
}

#[test]
fn every_mistake_is_told_at_once() {
    let text = "
        [engine]
        kv_cache_mib = 'lots'
        kv_cash_mib = 2
        sequences_max = 0
        [learner]
        baseline = 'worth'
        beta = -1.0
        [critic.sampling]
        top_k = 5
        [telemetry]
        address = 'here'
        log_format = 'xml'
    ";
    let error = file(text).unwrap_err();
    assert!(error.to_string().starts_with("9 mistakes in the config:\n  "), "{error}");
    let list = complaints(Err(error));
    for key in [
        "engine.kv_cache_mib: expected an integer",
        "engine.kv_cash_mib: unknown key",
        "engine.sequences_max: expected at least 1",
        "engine.sequences_max: expected room for",
        "learner.baseline: expected one of",
        "learner.beta: expected a number above 0, got -1.0",
        "critic.sampling.top_k: expected 0 (off)",
        "telemetry.address: expected an address",
        "telemetry.log_format: expected `text` or `json`, got \"xml\"",
    ] {
        assert_eq!(list.iter().filter(|complaint| complaint.starts_with(key)).count(), 1, "{key}: {list:#?}");
    }
}

#[test]
fn a_value_that_a_room_cannot_live_with_is_told() {
    for (given, key) in [
        ("node.run_directory=\"\"", "node.run_directory"),
        ("model.source=\" \"", "model.source"),
        ("prompts.file=\"\"", "prompts.file"),
        ("rollout.critiques=1", "rollout.critiques"),
        ("rollout.refinements=0", "rollout.refinements"),
        ("engine.kv_cache_mib=0", "engine.kv_cache_mib"),
        ("engine.step_tokens_max=63", "engine.step_tokens_max"),
        ("generator.prompt=\"no variable\"", "generator.prompt"),
        ("generator.sampling.max_tokens=0", "generator.sampling.max_tokens"),
        ("refiner.sampling.temperature=-0.5", "refiner.sampling.temperature"),
        ("refiner.sampling.temperature=nan", "refiner.sampling.temperature"),
        ("refiner.sampling.top_p=0.0", "refiner.sampling.top_p"),
        ("refiner.sampling.min_p=1", "refiner.sampling.min_p"),
        ("refiner.sampling.stop=[\"\"]", "refiner.sampling.stop"),
        ("replay.uses_max=0", "replay.uses_max"),
        ("replay.groups_max=1", "replay.groups_max"),
        ("learner.beta=0", "learner.beta"),
        ("learner.beta_final=0", "learner.beta_final"),
        ("learner.objective=\"dpco\"", "judge.critique_preferences"),
        ("learner.beta_schedule=\"linear\"", "learner.beta_steps"),
        ("learner.residual_clip=-1.0", "learner.residual_clip"),
        ("learner.second_moment_max=inf", "learner.second_moment_max"),
        ("learner.critiques_max=1", "learner.critiques_max"),
        ("learner.value.width=0", "learner.value.width"),
        ("learner.value.learning_rate=-1.0", "learner.value.learning_rate"),
        ("learner.learning_rate=inf", "learner.learning_rate"),
        ("learner.learning_rate_final=-1.0", "learner.learning_rate_final"),
        ("learner.learning_rate_schedule=\"linear\"", "learner.learning_rate_steps"),
        ("learner.adam_beta2=1", "learner.adam_beta2"),
        ("learner.adam_epsilon=0", "learner.adam_epsilon"),
        ("learner.weight_decay=-0.1", "learner.weight_decay"),
        ("learner.clip_norm=0", "learner.clip_norm"),
        ("learner.device_share=1.5", "learner.device_share"),
        ("learner.publish_every_steps=0", "learner.publish_every_steps"),
        ("learner.lora.rank=0", "learner.lora.rank"),
        ("learner.lora.alpha=0", "learner.lora.alpha"),
        ("learner.lora.targets=[]", "learner.lora.targets"),
        ("learner.lora.targets=[\"q_proj\", \"q_proj\"]", "learner.lora.targets"),
        ("supervisor.window_seconds=0", "supervisor.window_seconds"),
        ("telemetry.address=localhost", "telemetry.address"),
        ("critic.sampling.temperature=0", "critic.sampling.temperature"),
        ("critic.sampling.top_p=0.9", "critic.sampling.top_p"),
        ("critic.sampling.min_p=0.1", "critic.sampling.min_p"),
        ("rollout.refinements=65", "engine.sequences_max"),
        ("engine.context_tokens_max=68", "engine.context_tokens_max"),
    ] {
        let list = complaints(set(&[given]));
        assert!(list.len() == 1 && list[0].starts_with(&format!("{key}: expected ")), "{given}: {list:?}");
        assert!(list[0].contains("got"), "{list:?}");
    }
    // The longest conversation is a refiner's, or two critiques beside each other where they are compared.
    let long = "critic.sampling.max_tokens=40";
    assert!(set(&["engine.context_tokens_max=69"]).is_ok() && set(&["engine.context_tokens_max=112", long]).is_ok());
    let list = complaints(set(&["engine.context_tokens_max=112", long, "judge.critique_preferences=true"]));
    assert_eq!(
        list,
        ["engine.context_tokens_max: expected more than the max_tokens of generator, critic twice and judge together \
          (112), got 112"]
    );
    let list = complaints(set(&["learner.mode=full", "learner.reference_reset_steps=3"]));
    assert_eq!(list, ["learner.reference_reset_steps: expected 0 where learner.mode is \"full\", got 3"]);
    assert!(set(&["learner.mode=full"]).is_ok());
}

#[test]
fn a_syntax_error_names_file_line_and_column() {
    let error = file("[engine]\nkv_cache_mib = = 3\n").unwrap_err();
    assert!(matches!(&error, ConfigError::Syntax { line: 2, column: 16, .. }), "{error:?}");
    assert!(error.to_string().starts_with("mine.toml:2:16: "), "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
    let error = file("[node]\nrun_directory = \"öö\nseed = 1").unwrap_err();
    assert!(error.to_string().starts_with("mine.toml:2:"), "{error}");
    let twice = file("[node]\nseed = 1\nseed = 2").unwrap_err();
    assert!(twice.to_string().starts_with("mine.toml:3:1: "), "{twice}");
}

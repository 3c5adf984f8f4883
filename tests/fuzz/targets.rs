//! What is read: eleven kinds of files and answers, each with its seeds, its changes and its reader.

use crate::mutate::{below, change_bytes, change_json, change_template, one};
use rand_chacha::ChaCha8Rng;
use rco_node::checkpoint::{self, NamedTensor, Snapshot};
use rco_node::formats::adapter::Adapter;
use rco_node::formats::spec::ModelSpec;
use rco_node::formats::template::ChatTemplate;
use rco_node::formats::{self, OpenedModel, tokenizer::Tokenizer};
use rco_node::groups::{self, RecordedGroup};
use rco_node::prompts::{self, Columns, PromptsConfig, TooLong};
use rco_node::remote::{ChatRequest, parse_response};
use rco_node::roles::judge::Judge;
use rco_node::types::{Completion, CriticVersion, CritiqueGroup, EpisodeId, FinishReason, ModelId};
use rco_node::types::{Preference, ScoredCritique, Verdict};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Tensors of headers: changes fall in the first bytes of a file mostly.
const HEADER_BYTES: usize = 6000;

/// One changed input.
pub enum Input {
    /// A folder, and the file of it that was changed.
    Path(PathBuf, String),
    /// A text or an answer.
    Bytes(Vec<u8>),
}

/// What is fuzzed.
pub enum Target {
    Gguf(Vec<Vec<u8>>),
    Safetensors(Vec<u8>),
    Tokenizer(Vec<Vec<u8>>),
    Config(Vec<Vec<u8>>),
    Template(Vec<String>),
    Adapter {
        folder: PathBuf,
        spec: Box<ModelSpec>,
    },
    Prompts(Vec<u8>),
    /// Prompt files of every form, each with its name.
    Tables(Vec<(String, Vec<u8>)>),
    Manifest {
        folder: PathBuf,
        spec: Box<ModelSpec>,
    },
    Groups {
        lines: Vec<u8>,
        arrays: Vec<u8>,
    },
    Answers(Vec<u8>),
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn read(name: &str) -> Vec<u8> {
    fs::read(golden(name)).unwrap()
}

/// A copy of the folder `from`.
fn copied(from: &Path, to: &Path) -> PathBuf {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        match entry.path().is_dir() {
            true => drop(copied(&entry.path(), &to.join(entry.file_name()))),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
    to.to_owned()
}

/// Every tensor, and a text there and back.
fn use_model(model: OpenedModel) -> Result<(), String> {
    for (name, shape) in model.spec.tensors() {
        model.weights.get(&name, &shape).map_err(|error| error.to_string())?;
    }
    use_tokenizer(&model.tokenizer)
}

fn use_tokenizer(tokenizer: &Tokenizer) -> Result<(), String> {
    let text = "Hello  w\u{f6}rld 123\n\t<|im_end|> \u{1f600}";
    let ids = tokenizer.encode(text).map_err(|error| error.to_string())?;
    tokenizer.decode(&ids).map_err(|error| error.to_string())?;
    tokenizer.encode_document("").map_err(|error| error.to_string()).map(drop)
}

fn use_template(template: &ChatTemplate) -> Result<(), String> {
    let turns = [
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": "What is 2 + 2?"}),
        json!({"role": "assistant", "content": "4\n\nIndeed."}),
    ];
    template.render(&turns, true).map_err(|error| error.to_string()).map(drop)
}

/// A group that a run could have recorded.
fn group(episode: u64) -> CritiqueGroup {
    let critique = |utility: f32| ScoredCritique {
        completion: Completion {
            text: "Check the sum.".to_owned(),
            ids: vec![5, 6, 7],
            log_probs: vec![-0.5, -1.25, -0.125],
            version: CriticVersion(1),
            finish: FinishReason::Stop,
        },
        utility,
        verdicts: vec![Verdict::Win, Verdict::Tie],
    };
    CritiqueGroup {
        episode: EpisodeId(episode),
        prompt_id: "a-1".to_owned(),
        task: "arithmetic".to_owned(),
        prefix_ids: vec![1, 2, 3, 4],
        critiques: vec![critique(1.0), critique(0.25)],
        preferences: vec![Preference { chosen: 0, rejected: 1 }],
    }
}

impl Target {
    /// Every target; what their readers need lies in `folder`.
    pub fn all(folder: &Path) -> Vec<Self> {
        let spec = Box::new(formats::open(&golden("tiny_qwen3")).unwrap().spec);
        let adapter = Adapter::load(&golden("tiny_qwen3_lora"), &spec).unwrap();
        let name = |folder: &str, file: &str| read(&format!("{folder}/{file}"));
        let model = ModelId { name: "a/model".to_owned(), sha256: "00".repeat(32) };
        let recorded: Vec<_> = (0..3).map(|n| RecordedGroup { model: model.clone(), group: group(n) }).collect();
        let [lines, arrays] = ["seed.jsonl", "seed.safetensors"].map(|name| {
            groups::write(&folder.join(name), &recorded).unwrap();
            fs::read(folder.join(name)).unwrap()
        });
        let families = ["tiny_gemma3", "tiny_qwen3", "tiny_llama3"];
        copied(&golden("tiny_qwen3"), &folder.join("model"));
        let answer = json!({
            "choices": [{
                "finish_reason": "stop", "message": {"role": "assistant", "content": "Verdict: A. The better answer is A."},
                "logprobs": {"content": [{"token": "A", "top_logprobs": [
                    {"token": "A", "logprob": -0.25}, {"token": " B", "logprob": -1.5}, {"token": "tie", "logprob": -9.0},
                ]}]},
            }],
            "usage": {"prompt_tokens": 7, "completion_tokens": 2},
        });
        let lines_of = include_str!("../../data/reasoning-train.jsonl").lines().take(5);
        vec![
            Self::Gguf(families.map(|family| read(&format!("{family}.f32.gguf"))).into()),
            Self::Safetensors(name("tiny_qwen3", "model.safetensors")),
            Self::Tokenizer(families.map(|family| name(family, "tokenizer.json")).into()),
            Self::Config(vec![name("tiny_qwen3", "config.json")]),
            Self::Template(templates()),
            Self::Adapter { folder: copied(&golden("tiny_qwen3_lora"), &folder.join("adapter")), spec: spec.clone() },
            Self::Prompts(lines_of.collect::<Vec<_>>().join("\n").into_bytes()),
            Self::Tables(tables()),
            Self::Manifest { folder: saved(folder, adapter, &spec), spec },
            Self::Groups { lines, arrays },
            Self::Answers(answer.to_string().into_bytes()),
        ]
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Gguf(_) => "gguf",
            Self::Safetensors(_) => "safetensors",
            Self::Tokenizer(_) => "tokenizer.json",
            Self::Config(_) => "config.json",
            Self::Template(_) => "chat-template",
            Self::Adapter { .. } => "peft-adapter",
            Self::Prompts(_) => "prompts",
            Self::Tables(_) => "prompt-tables",
            Self::Manifest { .. } => "manifest",
            Self::Groups { .. } => "groups",
            Self::Answers(_) => "remote-answers",
        }
    }

    /// An input of this target, written below `folder` if it is read from a file.
    pub fn input(&self, rng: &mut ChaCha8Rng, folder: &Path) -> Input {
        let model = folder.join("model");
        let into = |folder: &Path, file: &str, bytes: &[u8]| {
            fs::write(folder.join(file), bytes).unwrap();
            Input::Path(folder.to_owned(), file.to_owned())
        };
        match self {
            Self::Gguf(seeds) => {
                let (mut bytes, other) = (one(rng, seeds).clone(), one(rng, seeds));
                change_bytes(rng, &mut bytes, HEADER_BYTES, other);
                into(folder, "model.gguf", &bytes)
            }
            Self::Safetensors(seed) => into(&model, "model.safetensors", &changed_tensors(rng, seed)),
            Self::Tokenizer(seeds) => {
                let seed = one(rng, seeds);
                into(folder, "tokenizer.json", &change_json(rng, seed))
            }
            Self::Config(seeds) => {
                fs::copy(golden("tiny_qwen3/model.safetensors"), model.join("model.safetensors")).unwrap();
                let seed = one(rng, seeds);
                into(&model, "config.json", &change_json(rng, seed))
            }
            Self::Template(seeds) => {
                let seed = one(rng, seeds);
                Input::Bytes(change_template(rng, seed).into_bytes())
            }
            Self::Adapter { folder, .. } => {
                let from = golden("tiny_qwen3_lora");
                let [config, weights] = ["adapter_config.json", "adapter_model.safetensors"];
                let (changed, other) = if below(rng, 2) == 0 { (config, weights) } else { (weights, config) };
                fs::copy(from.join(other), folder.join(other)).unwrap();
                let seed = fs::read(from.join(changed)).unwrap();
                let bytes = if changed == config { change_json(rng, &seed) } else { changed_tensors(rng, &seed) };
                into(folder, changed, &bytes)
            }
            Self::Prompts(seed) => Input::Bytes(changed_lines(rng, seed)),
            Self::Tables(seeds) => {
                let (name, seed) = one(rng, seeds);
                into(folder, name, &changed_table(rng, name, seed))
            }
            Self::Manifest { folder, .. } => changed_checkpoint(rng, folder),
            Self::Groups { lines, arrays } => match below(rng, 2) {
                0 => into(folder, "groups.jsonl", &changed_lines(rng, lines)),
                _ => into(folder, "groups.safetensors", &changed_tensors(rng, arrays)),
            },
            Self::Answers(seed) => Input::Bytes(change_json(rng, seed)),
        }
    }

    /// Reads `input` as the node does, and uses what it held.
    pub fn read(&self, input: &Input) -> Result<(), String> {
        match (self, input) {
            (Self::Gguf(_), Input::Path(folder, file)) => {
                use_model(formats::open(&folder.join(file)).map_err(|error| error.to_string())?)
            }
            (Self::Safetensors(_) | Self::Config(_), Input::Path(folder, _)) => {
                use_model(formats::open(folder).map_err(|error| error.to_string())?)
            }
            (Self::Tokenizer(_), Input::Path(folder, file)) => {
                let tokenizer = Tokenizer::from_file(&folder.join(file), vec![], Some("</s>"), Some("<s>"), None);
                use_tokenizer(&tokenizer.map_err(|error| error.to_string())?)
            }
            (Self::Template(_), Input::Bytes(bytes)) => {
                let template = ChatTemplate::new(&String::from_utf8_lossy(bytes), "<s>", "</s>");
                use_template(&template.map_err(|error| error.to_string())?)
            }
            (Self::Adapter { spec, .. }, Input::Path(folder, _)) => {
                Adapter::load(folder, spec).map(drop).map_err(|error| error.to_string())
            }
            (Self::Prompts(_), Input::Bytes(bytes)) => {
                let text = String::from_utf8_lossy(bytes);
                let report = prompts::lint::lint_lines(&text);
                let parsed = prompts::parse("prompts.jsonl", &text);
                assert_eq!(parsed.is_ok(), report.errors.is_empty() && !report.prompts.is_empty());
                parsed.map(drop).map_err(|error| error.to_string())
            }
            (Self::Tables(_), Input::Path(folder, file)) => {
                let path = folder.join(file);
                table_config(path.to_str().unwrap())
                    .load("prompts.file", path.to_str().unwrap())
                    .map(drop)
                    .map_err(|error| error.to_string())
            }
            (Self::Manifest { folder, spec }, _) => {
                checkpoint::load(folder, spec).map(drop).map_err(|error| error.to_string())
            }
            (Self::Groups { .. }, Input::Path(folder, file)) => {
                groups::read(&folder.join(file)).map(drop).map_err(|error| error.to_string())
            }
            (Self::Answers(_), Input::Bytes(bytes)) => {
                let chat = ChatRequest { wants_log_probs: true, ..ChatRequest::default() };
                let answer = parse_response(bytes, &chat).map_err(|error| error.to_string())?;
                let _ = Judge::read(&answer.text, answer.finish);
                let tokens = answer.first_tokens.iter();
                let tokens =
                    tokens.filter_map(|(token, log_prob)| Some((Judge::choice_of_first_token(token)?, *log_prob)));
                let _ = Judge::choice_from_log_probs(tokens);
                Ok(())
            }
            _ => unreachable!("an input is of the kind that its target makes"),
        }
    }
}

/// Templates as models have them, and one with everything in it.
fn templates() -> Vec<String> {
    let mut sources: Vec<String> = ["tiny_gemma3", "tiny_qwen3", "tiny_llama3", "tiny_llama"]
        .iter()
        .filter_map(|family| {
            let config: Value = serde_json::from_slice(&read(&format!("{family}/tokenizer_config.json"))).unwrap();
            config["chat_template"].as_str().map(str::to_owned)
        })
        .collect();
    sources.push(
        "{% macro turn(m) %}<|im_start|>{{ m.role }}\n{{ m['content'] | trim }}<|im_end|>\n{% endmacro %}\
         {% set ns = namespace(x='a', n=0) %}{% for m in messages %}{% set ns.n = ns.n + loop.index %}\
         {% if m.role == 'system' and not loop.first %}{{ raise_exception('late') }}{% endif %}{{ turn(m) }}\
         {{ m.content.split('\\n')[-1].strip() | upper }}{% endfor %}{{ messages | tojson }}{{ strftime_now('%d %b %Y') }}\
         {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
            .to_owned(),
    );
    sources
}

/// The prompt files that other programs wrote, by name.
fn tables() -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(golden("tables")).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> =
        files.map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap())).collect();
    files.sort();
    files
}

/// A config that reads the columns of these files.
fn table_config(file: &str) -> PromptsConfig {
    let [prompt, answer, id, task, messages] = ["question", "final", "level", "kind", "turns"].map(str::to_owned);
    let columns = Columns { prompt, answer, id, task, messages, ..Columns::default() };
    PromptsConfig { file: file.to_owned(), shuffle: false, too_long: TooLong::default(), columns }
}

/// A prompt file of the form that `name` says, changed as a whole or, if it is compressed, in what it holds.
fn changed_table(rng: &mut ChaCha8Rng, name: &str, seed: &[u8]) -> Vec<u8> {
    let outside = below(rng, 2) == 0;
    let mut bytes = seed.to_vec();
    match Path::new(name).extension().and_then(|extension| extension.to_str()) {
        Some("json") => return change_json(rng, seed),
        Some("gz") if !outside => {
            let mut text = Vec::new();
            flate2::read::GzDecoder::new(seed).read_to_end(&mut text).unwrap();
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(&changed_lines(rng, &text)).unwrap();
            return packed.finish().unwrap();
        }
        Some("zst") if !outside => {
            let text = zstd::decode_all(seed).unwrap();
            return zstd::encode_all(changed_lines(rng, &text).as_slice(), 1).unwrap();
        }
        _ => change_bytes(rng, &mut bytes, usize::MAX, seed),
    }
    bytes
}

/// A safetensors file with a change in its header, as JSON or as bytes, or in its values.
fn changed_tensors(rng: &mut ChaCha8Rng, seed: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    let length = u64::from_le_bytes(seed[..8].try_into().unwrap()) as usize;
    if below(rng, 3) > 0 {
        change_bytes(rng, &mut bytes, 8 + length, seed);
        return bytes;
    }
    let header = change_json(rng, &seed[8..8 + length]);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend(&seed[8 + length..]);
    bytes
}

/// JSON lines with one of them changed.
fn changed_lines(rng: &mut ChaCha8Rng, seed: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = seed.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let at = below(rng, lines.len());
    match below(rng, 8) {
        0 => lines.push(lines[at].clone()),
        _ => lines[at] = change_json(rng, &lines[at].clone()),
    }
    lines.join(&b'\n')
}

/// A checkpoint of `adapter`; returns its folder.
fn saved(folder: &Path, adapter: Adapter, spec: &ModelSpec) -> PathBuf {
    let moment = |name: &str| NamedTensor { name: name.to_owned(), shape: vec![2, 3], data: vec![0.5; 6] };
    let snapshot = Snapshot {
        step: 5,
        version: CriticVersion(1),
        critic: adapter.clone().into(),
        served: Some(adapter.into()),
        optimizer: vec![moment("layers.0.q_proj.lora_A.m"), moment("layers.0.q_proj.lora_A.v")],
        state: json!({"replay": {"groups": [1, 2]}, "ledger": {"next": 3, "open": [1]}}),
        config: "[node]\nseed = 0\n".to_owned(),
    };
    let seed = checkpoint::write(&folder.join("seed"), &snapshot, spec, "a/model", 1).unwrap();
    copied(&seed, &folder.join("checkpoints/step-00000005"))
}

/// Changes the manifest of the checkpoint in `folder`, or a file of it together with what the manifest says of that file.
fn changed_checkpoint(rng: &mut ChaCha8Rng, folder: &Path) -> Input {
    let seed = folder.parent().unwrap().parent().unwrap().join("seed/step-00000005");
    copied(&seed, folder);
    let manifest = fs::read(seed.join("manifest.json")).unwrap();
    let input = |file: &str, bytes: &[u8]| {
        fs::write(folder.join(file), bytes).unwrap();
        Input::Path(folder.to_owned(), file.to_owned())
    };
    if below(rng, 2) == 0 {
        return input("manifest.json", &change_json(rng, &manifest));
    }
    let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let files = manifest["files"].as_object_mut().unwrap();
    let name = files.keys().nth(below(rng, files.len())).unwrap().clone();
    let old = fs::read(seed.join(&name)).unwrap();
    let bytes = match name.ends_with(".safetensors") {
        true => changed_tensors(rng, &old),
        false => change_json(rng, &old),
    };
    files[&name] = json!({"bytes": bytes.len(), "sha256": const_hex::encode(Sha256::digest(&bytes))});
    fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    input(&name, &bytes)
}

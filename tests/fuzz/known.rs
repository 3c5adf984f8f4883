//! Faults that files are known to have caused, a table for each kind of file: each is refused with these words, within a
//! second, and without a large allocation.

use crate::heap;
use candle_core::Device;
use candle_core::quantized::gguf_file::{self, Content, Value};
use rco_node::checkpoint;
use rco_node::formats::adapter::Adapter;
use rco_node::formats::template::ChatTemplate;
use rco_node::formats::tokenizer::Tokenizer;
use rco_node::{formats, groups};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The most memory at once: a template may hold 128 MiB.
const ALLOCATION_MAX: usize = 128 << 20;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Checks that `read` refuses with `words` in one line, soon and without much memory.
fn refused<T, E: std::fmt::Display>(words: &str, read: impl FnOnce() -> Result<T, E>) {
    let _alone = heap::alone();
    heap::take_largest();
    let begun = Instant::now();
    let error = read().err().unwrap_or_else(|| panic!("was accepted, expected {words:?}")).to_string();
    let (took, bytes) = (begun.elapsed().as_secs_f64(), heap::take_largest());
    assert!(error.contains(words), "expected {words:?}, got {error:?}");
    assert!(!error.contains('\n') && error.len() < 4000, "{error:?}");
    // Tests share the processor with others; one alone takes a fraction of this.
    assert!(took < 20.0, "{words}: took {took} s");
    assert!(bytes < ALLOCATION_MAX, "{words}: allocated {bytes} bytes at once");
}

/// A copy of the golden folder `name`, with the file `file` changed by `change`.
fn changed(name: &str, file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let old = fs::read(folder.path().join(file)).unwrap();
    fs::write(folder.path().join(file), change(old)).unwrap();
    folder
}

/// Where `needle` ends in `bytes`.
fn end_of(bytes: &[u8], needle: &str) -> usize {
    let found = bytes.windows(needle.len()).position(|window| window == needle.as_bytes());
    found.unwrap_or_else(|| panic!("{needle} is not in the file")) + needle.len()
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    bytes[at..at + new.len()].copy_from_slice(new);
}

/// The tiny llama as GGUF, with `key` set to `value`.
fn gguf_with(key: &str, value: Value) -> Vec<u8> {
    let mut file = fs::File::open(golden("tiny_llama3.f32.gguf")).unwrap();
    let content = Content::read(&mut file).unwrap();
    let mut metadata = content.metadata.clone();
    metadata.insert(key.to_owned(), value);
    let tensors: Vec<_> = content
        .tensor_infos
        .keys()
        .map(|name| (name.as_str(), content.tensor(&mut file, name, &Device::Cpu).unwrap()))
        .collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let mut bytes = std::io::Cursor::new(Vec::new());
    gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
    bytes.into_inner()
}

fn refused_gguf(words: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    refused(words, || formats::open(&path));
}

#[test]
fn gguf_files_that_state_what_cannot_be() {
    for (key, value, words) in [
        ("general.alignment", Value::U32(0), "general.alignment: expected a power of two"),
        ("general.alignment", Value::U64(32), "general.alignment: expected a 32-bit"),
        ("llama.attention.key_length", Value::U64(1 << 40), "head width: expected 1 to 4096, got 1099511627776"),
        ("llama.block_count", Value::U64(1 << 60), "number of layers: expected 1 to 1024"),
        ("llama.attention.head_count", Value::U64(0), "number of heads: expected 1 to 1024, got 0"),
        ("llama.context_length", Value::U64(1 << 62), "context: expected 1 to"),
        ("llama.embedding_length", Value::U64(u64::MAX), "hidden width: expected 1 to"),
    ] {
        refused_gguf(words, &gguf_with(key, value));
    }
    let whole = fs::read(golden("tiny_llama3.f32.gguf")).unwrap();
    let patched = |needle: &str, offset: usize, new: &[u8]| {
        let mut bytes = whole.clone();
        let at = end_of(&bytes, needle) + offset;
        put(&mut bytes, at, new);
        bytes
    };
    let wraps: Vec<u8> = [2u64 << 32, 1 << 31].iter().flat_map(|size| size.to_le_bytes()).collect();
    refused_gguf("tensor token_embd.weight: expected a shape that fits", &patched("token_embd.weight", 4, &wraps));
    let many = 1u64.rotate_left(60).to_le_bytes();
    refused_gguf("tensor output_norm.weight: expected a shape that fits", &patched("output_norm.weight", 4, &many));
    refused_gguf("expected at most 8388608 elements", &patched("tokenizer.ggml.tokens", 8, &many));
    refused_gguf("expected at most 65536", &{
        let mut bytes = whole.clone();
        put(&mut bytes, 8, &many);
        bytes
    });
    refused_gguf("key: expected a name of at most 65535 bytes", &{
        let mut bytes = whole.clone();
        put(&mut bytes, 24, &u64::MAX.to_le_bytes());
        bytes
    });
    refused_gguf("tensor blk.0.attn_q.weight: expected once, got it twice", &{
        let mut bytes = whole.clone();
        let at = end_of(&bytes, "blk.1.attn_q.weight") - "blk.1.attn_q.weight".len();
        put(&mut bytes, at, b"blk.0.attn_q.weight");
        bytes
    });
    refused_gguf("key general.alignment: expected once, got it twice", &{
        let entry =
            [&17u64.to_le_bytes()[..], b"general.alignment", &4u32.to_le_bytes(), &32u32.to_le_bytes()].concat();
        let mut bytes = whole.clone();
        let keys = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
        put(&mut bytes, 16, &(keys + 2).to_le_bytes());
        bytes.splice(24..24, entry.repeat(2));
        bytes
    });
    refused_values(&{
        let mut file = fs::File::open(golden("tiny_llama3.f32.gguf")).unwrap();
        let content = Content::read(&mut file).unwrap();
        let at = content.tensor_data_offset + content.tensor_infos["blk.0.attn_q.weight"].offset;
        let mut bytes = whole.clone();
        put(&mut bytes, at as usize, &f32::NAN.to_le_bytes());
        bytes
    });
}

/// Opens the model and reads its first linear, which holds a NaN.
fn refused_values(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    let model = formats::open(&path).unwrap();
    let (name, shape) = model.spec.tensors().into_iter().find(|(name, _)| name.ends_with("q_proj.weight")).unwrap();
    refused("tensor blk.0.attn_q.weight: expected finite values, got NaN at 0", || model.weights.get(&name, &shape));
}

#[test]
fn configs_that_state_what_cannot_be() {
    for (key, value, words) in [
        ("head_dim", json!(1u64 << 40), "head width: expected 1 to 4096, got 1099511627776"),
        ("num_hidden_layers", json!(1u64 << 60), "number of layers: expected 1 to 1024"),
        ("num_attention_heads", json!(0), "number of heads: expected 1 to 1024, got 0"),
        ("vocab_size", json!(u64::MAX), "vocabulary: expected 1 to"),
        ("rope_parameters", json!({"rope_theta": 0.0, "rope_type": "default"}), "rotary frequency"),
        ("rms_norm_eps", json!(2.0), "norm epsilon"),
    ] {
        let folder = changed("tiny_llama", "config.json", |old| {
            let mut config: serde_json::Value = serde_json::from_slice(&old).unwrap();
            config[key] = value;
            config.to_string().into_bytes()
        });
        refused(words, || formats::open(folder.path()));
    }
    let folder = changed("tiny_llama", "config.json", |old| {
        let text = String::from_utf8(old).unwrap();
        text.replacen('{', "{\"rope_scaling\": {\"a\": 1, \"a\": 2},", 1).into_bytes()
    });
    refused("config.json: expected each key once, got \"a\" twice", || formats::open(folder.path()));
}

/// A safetensors file with the header `header` and `values` bytes after it.
fn tensors(header: &str, values: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; values]].concat()
}

#[test]
fn safetensors_that_state_what_cannot_be() {
    let one = r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}"#;
    let overflow =
        r#"{"a": {"dtype": "U8", "shape": [18446744073709551615], "data_offsets": [0, 18446744073709551615]}}"#;
    for (file, words) in [
        ([&(1u64 << 60).to_le_bytes()[..], b"{}"].concat(), "expected a header that fits the file"),
        (tensors(&format!("{one}, {}}}", &one[1..]), 8), "expected each key once, got \"a\" twice"),
        (tensors(overflow, 8), "overflow"),
        (tensors(&format!("{one}}}"), 9), "expected 8 bytes of tensors, got 9"),
        (tensors(&format!("{one}}}"), 7), "lie outside the file"),
        (tensors(&one.replace("[2]", "[3]").replace("]}", "]}}"), 8), "invalid shape, data type, or offset"),
        (tensors(&"[".repeat(1 << 16), 8), "nesting"),
    ] {
        let folder = changed("tiny_llama", "model.safetensors", |_| file);
        refused(words, || formats::open(folder.path()));
    }
    // Longer than the memory, but without a block on the disk.
    let folder = changed("tiny_llama", "config.json", |old| old);
    let file = fs::File::options().write(true).open(folder.path().join("config.json")).unwrap();
    file.set_len(1 << 42).unwrap();
    refused("config.json: expected at most", || formats::open(folder.path()));
}

#[test]
fn adapters_that_would_spoil_a_critic() {
    let spec = formats::open(&golden("tiny_llama")).unwrap().spec;
    let value = |new: f32| {
        move |mut old: Vec<u8>| {
            let at = old.len() - 4;
            put(&mut old, at, &new.to_le_bytes());
            old
        }
    };
    for (new, words) in
        [(f32::NAN, "expected finite values, got NaN"), (f32::INFINITY, "expected finite values, got inf")]
    {
        let folder = changed("tiny_lora", "adapter_model.safetensors", value(new));
        refused(words, || Adapter::load(folder.path(), &spec));
    }
    let folder = changed("tiny_lora", "adapter_model.safetensors", |old| [old, vec![0]].concat());
    refused("bytes of tensors", || Adapter::load(folder.path(), &spec));
    for (key, value, words) in [
        ("r", json!(1u64 << 60), "r \"1152921504606846976\" is not supported, expected one of 1 to 16384"),
        ("lora_alpha", json!(1e300), "lora_alpha"),
        ("lora_dropout", json!("x".repeat(2 << 20)), "expected at most 1048576 bytes"),
    ] {
        let folder = changed("tiny_lora", "adapter_config.json", |old| {
            let mut config: serde_json::Value = serde_json::from_slice(&old).unwrap();
            config[key] = value;
            config.to_string().into_bytes()
        });
        refused(words, || Adapter::load(folder.path(), &spec));
    }
}

#[test]
fn tokenizers_that_grow_or_nest_without_end() {
    let with = |key: &str, value: serde_json::Value| {
        changed("tiny_llama", "tokenizer.json", |old| {
            let mut tokenizer: serde_json::Value = serde_json::from_slice(&old).unwrap();
            tokenizer[key] = value;
            tokenizer.to_string().into_bytes()
        })
    };
    let nested =
        (0..40).fold(json!({"type": "nonsense"}), |inner, _| json!({"type": "Sequence", "pretokenizers": [inner]}));
    let replace = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaa"});
    let doubles = json!({"type": "Sequence", "normalizers": vec![replace; 40]});
    for (key, value, words) in [
        ("pre_tokenizer", nested, "expected at most 12 levels of nesting"),
        ("normalizer", doubles, "expected replacements that lengthen a text by a factor of at most 64"),
    ] {
        let folder = with(key, value);
        let path = folder.path().join("tokenizer.json");
        refused(words, || Tokenizer::from_file(&path, vec![], None, None, None));
    }
}

#[test]
fn a_tokenizer_whose_library_panics_refuses_the_text_alone() {
    let folder = changed("tiny_llama", "tokenizer.json", |old| {
        let mut tokenizer: serde_json::Value = serde_json::from_slice(&old).unwrap();
        tokenizer["normalizer"] = json!({"type": "Prepend", "prepend": ""});
        tokenizer.to_string().into_bytes()
    });
    let tokenizer = Tokenizer::from_file(&folder.path().join("tokenizer.json"), vec![], None, None, None);
    match tokenizer {
        Ok(tokenizer) => refused("panicked", || tokenizer.encode("Hello, world! 12")),
        Err(error) => assert!(error.to_string().contains("panicked"), "{error}"),
    }
}

#[test]
fn templates_that_run_or_write_without_end() {
    let loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}";
    let doubles = format!("{{% set x = 'aaaaaaaa' %}}{}{{{{ x }}}}", "{% set x = x ~ x %}".repeat(60));
    let long = "{% set ns = namespace(x='a' * 65536) %}".to_owned() + &"{{ ns.x }}".repeat(300);
    let text = "{% set x = 'a' * 60000 %}";
    let nested = "{% set ns = namespace(x=1) %}{% for a in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}";
    for (source, words) in [
        (loops.to_owned(), "ran out of fuel"),
        (doubles, "ran out of fuel"),
        (long, "expected a text of at most 16777216 bytes"),
        (
            "{{ 'a' | indent(4611686018427387904) }}{{ 'a\nb' | indent(4611686018427387904) }}".to_owned(),
            "chat template: ",
        ),
        ("{{ 'x' * 1000000000000 }}".to_owned(), "chat template: "),
        ("{{ 'x' | center(1000000000000) }}".to_owned(), "chat template: "),
        ("{{ messages | tojson(indent=4611686018427387904) }}".to_owned(), "expected an indent of at most 64"),
        (format!("{text}{{{{ x.replace('', x) }}}}"), "ran out of fuel"),
        (format!("{text}{{{{ x.join(range(99999)) }}}}"), "join: expected a text of at most 16777216 bytes"),
        (format!("{text}{{{{ x.strip(x) }}}}"), "ran out of fuel"),
        ("{{ '{:>99999999999}'.format(1) }}".to_owned(), "expected widths below 1000"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(), "recursion"),
        (format!("{{{{ {}", "(".repeat(100_000)), "chat template: "),
        ("{{ [1] * 99999999 }}".to_owned(), "ran out of fuel"),
        ("{{ ' '.join([[1] * 99999999]) }}".to_owned(), "ran out of fuel"),
        ("a".repeat(2 << 20), "expected a source of at most 1048576 bytes"),
        (format!("{nested}{{{{ raise_exception('deep') }}}}"), "chat template: "),
        ("{{ raise_exception('a\nb' * 5000) }}".to_owned(), r"a\nb"),
    ] {
        refused(words, || ChatTemplate::new(&source, "", "").and_then(|template| template.render(&[json!({})], true)));
    }
    // What models have is far below the limits.
    let turns: Vec<_> = (0..400).map(|_| json!({"role": "user", "content": "word ".repeat(2000)})).collect();
    assert_eq!(ChatTemplate::chatml().render(&turns, true).unwrap().len(), 400 * (10_000 + 28) + 22);
}

/// The memory of this process, in bytes; 0 where the system does not say.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    resident.and_then(|kib| kib.trim().trim_end_matches(" kB").parse::<usize>().ok()).unwrap_or(0) << 10
}

#[test]
fn templates_that_take_memory_without_fuel_take_a_limited_part_of_it_once() {
    let repeats = "{% set a = [1] * 9999 %}{{ ([a] * 9999) ~ '' }}".to_owned();
    let adds = format!("{{% set x = ['a'] %}}{}{{{{ x ~ '' }}}}", "{% set x = x + x %}".repeat(60));
    let render =
        |source: &str| ChatTemplate::new(source, "", "").and_then(|template| template.render(&[json!({})], true));
    let begun = resident();
    for source in [&repeats, &adds] {
        refused("; the template is not used again", || render(source));
    }
    // Each of their threads holds what it may and no more.
    let held = resident();
    assert!(held < begun + (300 << 20), "{begun} bytes, then {held}");
    // It is not run again, whoever loads it, and nothing runs on: the memory stays as it is meanwhile.
    let (begun, loops) =
        (Instant::now(), "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}");
    for _ in 0..10 {
        refused("; the template is not used again", || render(&repeats));
        refused("ran out of fuel", || render(loops));
    }
    let (took, later) = (begun.elapsed(), resident());
    assert!(later < held + (32 << 20), "{held} bytes, and {later} after {took:?}");
}

#[test]
fn manifests_that_lead_out_of_their_folder() {
    let spec = formats::open(&golden("tiny_llama")).unwrap().spec;
    let adapter = Adapter::load(&golden("tiny_lora"), &spec).unwrap();
    let root = tempfile::tempdir().unwrap();
    let snapshot = checkpoint::Snapshot {
        step: 1,
        version: rco_node::types::CriticVersion(1),
        critic: adapter.into(),
        served: None,
        optimizer: vec![],
        state: json!({}),
        config: String::new(),
    };
    let path = checkpoint::write(root.path(), &snapshot, &spec, "a/model", 1).unwrap();
    let manifest = path.join("manifest.json");
    let whole: serde_json::Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let entry = json!({"bytes": 0, "sha256": "0".repeat(64)});
    for name in ["../../../../../../dev/zero", "/dev/zero", "adapter/../../x", ""] {
        let mut changed = whole.clone();
        changed["files"][name] = entry.clone();
        fs::write(&manifest, changed.to_string()).unwrap();
        refused("expected the path of a file within this folder", || checkpoint::load(&path, &spec));
    }
    let twice = whole.to_string().replacen("\"config.toml\"", "\"state.json\"", 1);
    fs::write(&manifest, twice).unwrap();
    refused("expected each key once, got \"state.json\" twice", || checkpoint::load(&path, &spec));
    fs::write(&manifest, whole.to_string()).unwrap();
    checkpoint::load(&path, &spec).unwrap();
    fs::remove_file(path.join("config.toml")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path.join("config.toml")).unwrap();
    refused("config.toml: expected a regular file", || checkpoint::load(&path, &spec));
    fs::write(root.path().join("best.json"), r#"{"folder": "../..", "step": 1, "cu": 1.0}"#).unwrap();
    refused("expected the name of a checkpoint", || checkpoint::best(root.path()));
}

#[test]
fn groups_that_contradict_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("groups.jsonl");
    let written = json!({"text": "a", "ids": [1, 2], "log_probs": [-0.5, -1.0], "version": 0, "finish": "stop"});
    let critique = json!({"written": written, "utility": 0.5, "verdicts": []});
    let group = json!({
        "episode": 0, "prompt_id": "a", "task": "t", "prefix_ids": [1], "critiques": [critique, critique],
        "preferences": [],
    });
    let line = json!({"model": {"name": "m", "sha256": "00"}, "group": group});
    fs::write(&path, format!("{line}\n")).unwrap();
    assert_eq!(groups::read(&path).unwrap().groups.len(), 1);
    for (pointer, value, words) in [
        ("/group/critiques/0/written/ids", json!([1]), "expected a log-prob for each id, got 1 ids and 2 log-probs"),
        ("/group/critiques/1/written/log_probs", json!([]), "critique 1: expected a log-prob for each id"),
        ("/group/critiques/0/written/log_probs", json!([-1.0, 7.0]), "expected log-probs of at most 0, got 7"),
        ("/group/critiques/0/utility", json!(1.5), "expected a utility from 0 to 1, got 1.5"),
        ("/group/critiques", json!([critique]), "expected at least two critiques, got 1"),
        ("/group/prefix_ids", json!([]), "expected the ids of the prompt"),
        ("/group/preferences", json!([{"chosen": 0, "rejected": 9}]), "preferences: expected two of 2 critiques"),
    ] {
        let mut changed = line.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        fs::write(&path, format!("{line}\n{changed}\n")).unwrap();
        refused(words, || groups::read(&path));
    }
    fs::write(&path, format!("{line}\n{}\n", "{\"x\": ".to_owned() + &"[".repeat(1 << 20))).unwrap();
    refused("line 2: EOF while parsing", || groups::read(&path));
    let link = folder.path().join("zero.jsonl");
    std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
    refused("expected a regular file", || groups::read(&link));
}

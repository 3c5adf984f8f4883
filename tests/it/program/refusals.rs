//! What a node refuses before it starts, several nodes in one process, and every exit code.

use crate::support::models::golden;
use crate::support::node::{config, likes_even, sets, start};
use candle_core::DeviceLocation;
use rco_node::episode::judge::Pair;
use rco_node::learner::Mode;
use rco_node::node::{Exit, Node, Options, check_device};
use rco_node::run::events::Event;
use rco_node::run::state::DropReason;
use rco_node::types::{Invalid, Verdict};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// A copy of the tiny llama in `folder`, changed by `change`.
pub(super) fn changed_model(folder: &Path, change: impl FnOnce(&Path)) -> PathBuf {
    let model = folder.join("model");
    fs::create_dir_all(&model).unwrap();
    for entry in fs::read_dir(golden("tiny_llama")).unwrap().map(Result::unwrap) {
        fs::write(model.join(entry.file_name()), fs::read(entry.path()).unwrap()).unwrap();
    }
    change(&model);
    model
}

/// Writes `byte` over the tensors whose names end with `ending`.
pub(super) fn fill(model: &Path, ending: &str, byte: u8) {
    let file = model.join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut filled = 0;
    let owned: Vec<_> = tensors
        .iter()
        .map(|(name, view)| {
            let mut data = view.data().to_vec();
            if name.ends_with(ending) {
                data.fill(byte);
                filled += 1;
            }
            (name.to_owned(), view.dtype(), view.shape().to_vec(), data)
        })
        .collect();
    assert!(filled > 0, "the model has tensors that end with {ending}");
    let views: BTreeMap<_, _> = owned
        .iter()
        .map(|(name, dtype, shape, data)| (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap()))
        .collect();
    let bytes = safetensors::serialize(&views, None).unwrap();
    fs::write(&file, bytes).unwrap();
}

/// Changes the chat template of `model`; none removes it.
pub(super) fn set_template(model: &Path, change: impl FnOnce(&str) -> Option<String>) {
    let file = model.join("tokenizer_config.json");
    let mut config: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let template = config.remove("chat_template").unwrap();
    if let Some(changed) = change(template.as_str().unwrap()) {
        config.insert("chat_template".to_owned(), changed.into());
    }
    fs::write(&file, serde_json::to_vec(&config).unwrap()).unwrap();
}

/// Takes one learner step in `folder`, by a judge with a taste: the verifier would have to wait for random weights to be right.
pub(super) fn take_one_step(folder: &Path, more: &str) {
    let more = format!("judge.kind='verifier'\n{more}");
    let step = async { start(config(folder, &more), false, Some(1), Arc::new(likes_even)).await.done().await };
    tokio::runtime::Runtime::new().unwrap().block_on(step);
}

/// Goes on with a run that has its steps.
pub(super) const GO_ON: [&str; 4] = ["start", "--resume", "--learner-steps", "1"];

/// The program on the small node of the loop's tests in `folder`, with `more` settings.
pub(super) fn program(folder: &Path, more: &str, arguments: &[&str]) -> Command {
    config(folder, "judge.kind='verifier'");
    let mut command = Command::new(env!("CARGO_BIN_EXE_rco-node"));
    command.args(arguments).env("RCO_LOG", "warn");
    for set in sets(folder, &folder.join("prompts.jsonl"), &format!("judge.kind='verifier'\n{more}")) {
        command.args(["--set", &set]);
    }
    command
}

fn run(folder: &Path, more: &str, arguments: &[&str]) -> Output {
    program(folder, more, arguments).output().unwrap()
}

/// The program ended with `exit` and names each of `parts` on stderr.
pub(super) fn assert_ended(output: &Output, exit: Exit, parts: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit as i32), "{exit:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "nothing panicked: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "expected {part:?} in: {stderr}");
    }
}

pub(super) fn source(model: &Path) -> String {
    format!("model.source='{}'", model.display())
}

#[test]
fn a_trainable_tensor_without_a_gradient_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    // The gate's branch reaches the loss through this matrix alone.
    let model = changed_model(folder.path(), |model| fill(model, "layers.0.mlp.down_proj.weight", 0));
    let gate = format!("{}\nlearner.lora.targets=['gate_proj']", source(&model));
    let refused = run(folder.path(), &gate, &["start", "--learner-steps", "1"]);
    assert_ended(&refused, Exit::Device, &["layers.0.gate_proj.lora_A", "gradient"]);
    assert!(!folder.path().join("run/checkpoints").exists(), "nothing was written");
    // Beside a branch that the loss sees, the gate learns too.
    let both = format!("{}\nlearner.lora.targets=['gate_proj', 'down_proj']", source(&model));
    take_one_step(folder.path(), &both);
    assert_ended(&run(folder.path(), &both, &GO_ON), Exit::Done, &[]);
}

#[test]
fn a_start_refuses_the_memory_that_a_check_refuses() {
    for (more, parts) in [
        ("engine.kv_cache_mib=100000000", ["memory: the plan needs", "available"]),
        (
            "engine.context_tokens_max=1000000",
            ["engine.context_tokens_max: expected at most the model's", "got 1000000"],
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for command in ["check", "start"] {
            assert_ended(&run(folder.path(), more, &[command]), Exit::Usage, &parts);
        }
        assert!(!folder.path().join("run/checkpoints").exists(), "{more}: nothing was begun");
    }
}

#[test]
fn a_model_without_a_chat_template_serves_no_node_and_raw_texts() {
    let folder = tempfile::tempdir().unwrap();
    let model = changed_model(folder.path(), |model| set_template(model, |_| None));
    let refused = run(folder.path(), &source(&model), &["start", "--learner-steps", "1"]);
    assert_ended(&refused, Exit::Model, &["chat template"]);
    let raw = run(folder.path(), &source(&model), &["generate", "--raw", "--prompt", "x", "--max-tokens", "3"]);
    assert_ended(&raw, Exit::Done, &[]);
}

#[test]
fn prompts_with_code_start_no_node_where_there_is_no_sandbox() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = folder.path().join("code.jsonl");
    let test = "def check(candidate):\n    assert candidate() == 1";
    let verifier = serde_json::json!({"kind": "code", "entry_point": "f", "test": test});
    let line = serde_json::json!({"id": "f", "task": "code", "prompt": "write f", "verifier": verifier});
    fs::write(&prompts, format!("{line}\n")).unwrap();
    let code = format!("prompts.file='{}'", prompts.display());
    // In a user namespace that may have no other, and without capabilities, no namespace can be made.
    let without_isolation = |more: &str, arguments: &[&str]| {
        let inner = program(folder.path(), more, arguments);
        let none =
            "echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all -- \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", none, "sh"]);
        command.arg(inner.get_program()).args(inner.get_args());
        command.output().unwrap()
    };
    for arguments in [&["check"][..], &["start", "--learner-steps", "1"]] {
        assert_ended(&without_isolation(&code, arguments), Exit::Usage, &["judge.allow_unsandboxed"]);
    }
    let allowed = format!("{code}\njudge.allow_unsandboxed=true");
    assert_ended(&without_isolation(&allowed, &["check"]), Exit::Done, &[]);
    assert_ended(&run(folder.path(), &code, &["check"]), Exit::Done, &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_nodes_run_in_one_process_and_one_directory_has_one_node() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let options = || Options { learner_steps: Some(2), judge: Some(Arc::new(likes_even)), ..Options::default() };
    let start = |folder: &Path| Node::start(config(folder, ""), options());
    let one = start(folders[0].path()).await.unwrap();
    let other = start(folders[1].path()).await.unwrap();
    let refused = start(folders[0].path()).await.err().expect("the directory is taken");
    assert_eq!(refused.exit(), Exit::Usage);
    let directory = folders[0].path().join("run");
    assert!(refused.to_string().contains(directory.to_str().unwrap()), "{refused}");
    // A refusal takes nothing from the node that runs there.
    assert_eq!([one.wait().await, other.wait().await], [Exit::Done; 2]);
    for node in [one, other] {
        assert_eq!(node.progress().step, 2);
    }
    let resumed = Options { resume: true, learner_steps: Some(3), ..options() };
    let again = Node::start(config(folders[0].path(), ""), resumed).await.expect("the directory is free again");
    assert_eq!(again.wait().await, Exit::Done);
}

/// A run that ends with `exit`, and what it says. The match has no default: a new code wants a run of its own here.
fn ending_with(exit: Exit, folder: &Path) -> (Output, &'static [&'static str]) {
    let start: &[&str] = &["start", "--learner-steps", "1"];
    match exit {
        Exit::Done => {
            take_one_step(folder, "");
            (run(folder, "", &GO_ON), &[])
        }
        Exit::Failed => {
            let prompts = folder.join("held-out.jsonl");
            fs::write(&prompts, "{\"id\": \"a\", \"task\": \"echo\", \"prompt\": \"x\", \"answer\": \"1\"}\n").unwrap();
            let model = changed_model(folder, |model| set_template(model, |plain| Some(refusing(plain))));
            let more = format!("{}\neval.file='{}'", source(&model), prompts.display());
            (run(folder, &more, &["eval", "--critic", "base"]), &["refused"])
        }
        Exit::Usage => (run(folder, "learner.beta=0", start), &["learner.beta"]),
        Exit::Model => (run(folder, &source(&folder.join("nowhere")), start), &["nowhere"]),
        Exit::Restarts => {
            let model = changed_model(folder, |model| set_template(model, |plain| Some(refusing(plain))));
            (run(folder, &format!("{}\nsupervisor.restarts_max=1", source(&model)), start), &["refused"])
        }
        Exit::Device => {
            let model = changed_model(folder, |model| fill(model, "mlp.down_proj.weight", 0));
            let more = format!("{}\nlearner.lora.targets=['up_proj']", source(&model));
            (run(folder, &more, start), &["up_proj"])
        }
        Exit::Checkpoint => {
            fs::create_dir_all(folder.join("run")).unwrap();
            fs::write(folder.join("run/checkpoints"), "not a folder").unwrap();
            (run(folder, "", start), &["run/checkpoints"])
        }
        Exit::Useless => {
            // A port that was free a moment ago: nobody answers.
            let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let more = format!(
                "judge.kind='remote'\nremote.judge.base_url='http://{gone}/v1'\nremote.judge.model='m'\n\
                 remote.judge.retries_max=0\nsupervisor.useless_seconds=3"
            );
            let says = &["every episode of the last", "judge: remote server: connection", "groups kept: 0", "next:"];
            (run(folder, &more, start), says)
        }
    }
}

/// A chat template that refuses every conversation.
fn refusing(plain: &str) -> String {
    format!("{{{{ raise_exception('refused') }}}}{plain}")
}

#[test]
fn every_exit_code_is_reached_and_told_in_the_help() {
    let all = [
        Exit::Done,
        Exit::Failed,
        Exit::Usage,
        Exit::Model,
        Exit::Restarts,
        Exit::Device,
        Exit::Checkpoint,
        Exit::Useless,
    ];
    let codes: BTreeSet<i32> = all.iter().map(|exit| *exit as i32).collect();
    assert_eq!(codes, (0..all.len() as i32).collect(), "codes follow one another");
    let help = Command::new(env!("CARGO_BIN_EXE_rco-node")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, told) = help.split_once("Exit codes:").expect("the help tells the exit codes");
    for exit in all {
        let folder = tempfile::tempdir().unwrap();
        let (output, parts) = ending_with(exit, folder.path());
        assert_ended(&output, exit, parts);
        let code = exit as i32;
        let is_told =
            told.split_whitespace().any(|word| word.trim_matches(|c: char| !c.is_ascii_digit()) == code.to_string());
        assert!(is_told, "{code} in: {told}");
    }
}

#[test]
fn a_critic_with_all_weights_trained_is_refused_on_a_gpu() {
    let folder = tempfile::tempdir().unwrap();
    let (gpu, mut config) = (DeviceLocation::Cuda { gpu_id: 1 }, config(folder.path(), ""));
    for (mode, device, refused) in [
        (Mode::Full, gpu, true),
        (Mode::Full, DeviceLocation::Cpu, false),
        (Mode::Lora, gpu, false),
        (Mode::Lora, DeviceLocation::Cpu, false),
    ] {
        config.learner.mode = mode;
        let checked = check_device(&config, device);
        assert_eq!(checked.is_err(), refused, "{mode} on {device:?}");
        let Err(error) = checked else { continue };
        assert_eq!(error.exit(), Exit::Usage);
        let why = error.to_string();
        assert!(why.contains("learner.mode full") && why.contains("cuda:1"), "{why}");
    }
}

#[test]
fn keys_and_values_that_a_gpu_does_not_keep_are_refused_there() {
    let folder = tempfile::tempdir().unwrap();
    for (kv, refused) in [("auto", false), ("bf16", false), ("int8", true), ("f32", true)] {
        let config = config(folder.path(), &format!("engine.kv='{kv}'"));
        assert!(check_device(&config, DeviceLocation::Cpu).is_ok());
        let checked = check_device(&config, DeviceLocation::Cuda { gpu_id: 1 });
        assert_eq!(checked.is_err(), refused, "{kv}");
        let Err(error) = checked else { continue };
        assert_eq!(error.exit(), Exit::Usage);
        let why = error.to_string();
        assert!(why.contains("engine.kv: expected auto or bf16 on cuda:1") && why.contains(kv), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_the_template_refuses_ends_its_episode_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    // About a sixth of the texts of random weights have such a letter.
    let poison = "{% for m in messages %}{% if 'Z' in m.content or 'q' in m.content %}{{ raise_exception('no Z, no q') }}\
                  {% endif %}{% endfor %}";
    let model = changed_model(folder.path(), |model| set_template(model, |plain| Some(format!("{poison}{plain}"))));
    let running = start(config(folder.path(), &source(&model)), false, None, Arc::new(likes_even)).await;
    let refused = |event: &Event| {
        matches!(
            event,
            Event::CritiqueDropped(DropReason::Refused)
                | Event::EpisodeEnded { dropped: Some(DropReason::Refused), .. }
        )
    };
    let learned = |event: &Event| matches!(event, Event::Learned { .. });
    let both =
        |events: &[Event]| events.iter().any(refused) && events.iter().filter(|event| learned(event)).count() >= 5;
    running.log.until("refused texts and learner steps", both).await;
    running.node.stop();
    let (progress, _) = running.done().await;
    assert_eq!(progress.restarts, 0, "nothing was restarted");
}

#[test]
fn a_template_that_refuses_one_role_alone_ends_the_run_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let start: &[&str] = &["start"];
    // The generator's prompts pass: of all requests, half are refused.
    let poison = "{% for m in messages %}{% if 'CRITIC' in m.content %}{{ raise_exception('no critics') }}{% endif %}\
                  {% endfor %}";
    let model = changed_model(folder.path(), |model| set_template(model, |plain| Some(format!("{poison}{plain}"))));
    let more = format!("{}\ncritic.prompt='CRITIC {{{{ prompt }}}}{{{{ response }}}}'", source(&model));
    let output = run(folder.path(), &more, start);
    assert_ended(&output, Exit::Restarts, &["refused texts ended", "critic", "no critics"]);
    let checkpoints = fs::read_dir(folder.path().join("run/checkpoints")).unwrap();
    assert_eq!(checkpoints.count(), 1, "the device was alive, so what there was is saved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_judge_that_hangs_costs_its_verdicts_and_holds_up_no_stop() {
    let folder = tempfile::tempdir().unwrap();
    let (gate, held) = (Arc::new((Mutex::new(false), Condvar::new())), Arc::new(AtomicUsize::new(0)));
    let (waiting, hung) = (gate.clone(), held.clone());
    let judge = move |_: Pair<'_>| {
        hung.fetch_add(1, Ordering::Relaxed);
        drop(waiting.1.wait_while(waiting.0.lock().unwrap(), |is_open| !*is_open));
        Verdict::Tie
    };
    let more = "rollout.ask_deadline_seconds=1";
    let running = start(config(folder.path(), more), false, None, Arc::new(judge)).await;
    let late = |event: &Event| matches!(event, Event::Judged(Verdict::Invalid(Invalid::Deadline)));
    running.log.until("verdicts that are late", |events| events.iter().any(late)).await;
    // More judges hang than there are threads for the rest of the node.
    assert!(held.load(Ordering::Relaxed) >= 4);
    running.node.stop();
    let (progress, _) = running.done().await;
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    assert_eq!(progress.restarts, 0);
}

#[test]
fn a_log_or_a_result_that_cannot_be_written_ends_nothing_unsaid() {
    let folder = tempfile::tempdir().unwrap();
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    // The reader of the log has gone before the first line.
    take_one_step(folder.path(), "");
    let mut node = program(folder.path(), "", &GO_ON);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(node.env("RCO_LOG", "debug").stderr(writer).status().unwrap().code(), Some(0));
    // A result on a full disk.
    let generate = ["generate", "--raw", "--prompt", "x", "--max-tokens", "3"];
    let output = program(folder.path(), "", &generate).stdout(full()).output().unwrap();
    assert_ended(&output, Exit::Failed, &["standard output"]);
    // A reader that has seen enough.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_ended(&program(folder.path(), "", &generate).stdout(writer).output().unwrap(), Exit::Done, &[]);
}

#[test]
fn a_log_whose_reader_does_not_read_holds_up_neither_the_run_nor_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (_reader, mut log) = std::io::pipe().unwrap();
    // As much as a pipe holds: the next write waits.
    log.write_all(&[b'.'; 1 << 16]).unwrap();
    let node = program(folder.path(), "", &["start"]).env("RCO_LOG", "debug").stderr(log).spawn().unwrap();
    let mut node = KilledAtTheEnd(node);
    let checkpoints = folder.path().join("run/checkpoints");
    let has_published = || fs::read_dir(&checkpoints).is_ok_and(|found| found.count() > 0);
    within(Duration::from_secs(60), "a checkpoint", has_published);
    let sent = Command::new("kill").args(["-TERM", &node.0.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let mut ended = None;
    within(Duration::from_secs(30), "the end", || {
        ended = node.0.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(0));
}

#[test]
fn a_hundred_idle_clients_where_descriptors_are_few_keep_out_no_checkpoint_and_no_scrape() {
    let folder = tempfile::tempdir().unwrap();
    let inner = program(folder.path(), "telemetry.address='127.0.0.1:0'", &["start"]);
    let log = folder.path().join("log");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""]).arg(inner.get_program()).args(inner.get_args());
    let spawned = command.env("RCO_LOG", "info").stderr(fs::File::create(&log).unwrap()).spawn();
    let mut node = KilledAtTheEnd(spawned.unwrap());
    let mut address = None;
    within(Duration::from_secs(60), "the address", || {
        let said = fs::read_to_string(&log).unwrap();
        let found = said.lines().find_map(|line| line.split_once("address=")?.1.split_whitespace().next());
        address = found.and_then(|found| found.parse::<SocketAddr>().ok());
        address.is_some()
    });
    let idle = || {
        let mut client = TcpStream::connect(address.unwrap()).unwrap();
        client.write_all(b"GET /metrics HTTP/1.1\r\nHost:").unwrap();
        client
    };
    let _clients: Vec<_> = (0..100).map(|_| idle()).collect();
    let checkpoints = || fs::read_dir(folder.path().join("run/checkpoints")).map_or(0, Iterator::count);
    let before = checkpoints();
    let ask = |path: &str| {
        let mut client = TcpStream::connect(address.unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    };
    // Each is answered at once, and the device reports once it has started.
    within(Duration::from_secs(60), "the device's metrics", || {
        let answer = ask("/metrics");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer.contains("rco_device_busy_seconds")
    });
    // Checkpoints beyond those that are kept replace older ones, so the first few are looked for.
    within(Duration::from_secs(60), "a checkpoint", || checkpoints() > before.min(2));
    assert!(ask("/healthz").starts_with("HTTP/1.1 200"));
    let sent = Command::new("kill").args(["-TERM", &node.0.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let mut ended = None;
    within(Duration::from_secs(30), "the end", || {
        ended = node.0.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(0), "{}", fs::read_to_string(&log).unwrap());
}

/// A process that a test which fails leaves behind no longer than itself.
pub(super) struct KilledAtTheEnd(pub(super) Child);

impl Drop for KilledAtTheEnd {
    fn drop(&mut self) {
        // It has ended if the test has passed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `is_so`, at most for `patience`.
pub(super) fn within(patience: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < patience, "waiting for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

//! Promises of the checkpoint room: what `newest` returns is whole, whatever happened before.
use super::disk::{Content, Disk, LocalDisk};
use super::*;
use crate::formats::adapter::{Adapter, Factors, LoraConfig};
use crate::formats::spec::Projection;
use crate::transformer::full_weights::{CriticWeights, FullWeights};
use crate::types::CriticVersion;
use std::collections::BTreeSet;
use std::fs;
use tempfile::TempDir;

fn spec() -> ModelSpec {
    ModelSpec {
        vocab: 8,
        hidden: 4,
        intermediate: 6,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 2,
        norm_epsilon: 1e-6,
        context_tokens: 64,
        tied: true,
        ..crate::formats::spec::tests::tiny()
    }
}

fn adapter(salt: f32) -> Adapter {
    let config =
        LoraConfig { rank: 2, alpha: 4.0, rslora: false, targets: vec![Projection::QProj, Projection::DownProj] };
    let mut factors = std::collections::BTreeMap::new();
    for layer in 0..2 {
        for site in [Projection::QProj, Projection::DownProj] {
            let (inputs, outputs) = site.sizes(&spec());
            let fill = |n: usize, by: f32| (0..n).map(|i| (i as f32 + salt) * by + layer as f32).collect();
            factors.insert((layer, site), Factors { a: fill(2 * inputs, 0.1), b: fill(2 * outputs, -0.3) });
        }
    }
    Adapter::new(config, factors)
}

fn snapshot(step: u64) -> Snapshot {
    let moment = |name: &str, by: f32| NamedTensor {
        name: name.to_owned(),
        shape: vec![2, 3],
        data: (0..6).map(|i| f32::MIN_POSITIVE * by + i as f32 / 3.0).collect(),
    };
    Snapshot {
        step,
        version: CriticVersion(step / 5),
        critic: adapter(step as f32).into(),
        served: (step >= 5).then(|| adapter(step as f32 - 1.0).into()),
        optimizer: vec![moment("layers.0.q_proj.lora_A.m", 1.0), moment("layers.0.q_proj.lora_A.v", 7.0)],
        state: serde_json::json!({"cursor": step * 3, "utility": 0.1f32, "seed": u64::MAX, "open": [1, 2]}),
        config: "[node]\nseed = 0\n".to_owned(),
    }
}

fn save(root: &Path, step: u64) -> PathBuf {
    write(root, &snapshot(step), &spec(), "a/model", 10).unwrap()
}

fn names(root: &Path) -> Vec<String> {
    list(root).unwrap().iter().map(|l| l.path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

/// Every file below `folder`.
fn files_of(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() { files.extend(files_of(&entry)) } else { files.push(entry) }
    }
    files.sort();
    files
}

/// A disk that stops at its `left`-th act, half done, and then loses all bytes that were not synced.
struct Failing {
    left: usize,
    unsynced: BTreeSet<PathBuf>,
    renamed: Option<(PathBuf, PathBuf)>,
}

impl Failing {
    fn after(left: usize) -> Self {
        Self { left, unsynced: BTreeSet::new(), renamed: None }
    }

    /// Counts the act; an error from the one on which the machine stops, and ever after.
    fn act(&mut self, path: &Path) -> Result<()> {
        if self.left == 0 {
            return Err(Error::io(path)(std::io::Error::other("the power is gone")));
        }
        self.left -= 1;
        Ok(())
    }

    /// What the disk shows after the power loss.
    fn lose(self) {
        for path in self.unsynced {
            // It may lie under its new name by now.
            let moved = self.renamed.as_ref().and_then(|(from, to)| Some(to.join(path.strip_prefix(from).ok()?)));
            for path in [Some(path), moved].into_iter().flatten().filter(|path| path.is_file()) {
                let length = fs::metadata(&path).unwrap().len();
                fs::File::options().write(true).open(&path).unwrap().set_len(length / 2).unwrap();
            }
        }
    }
}

impl Disk for Failing {
    fn create_folder(&mut self, path: &Path) -> Result<()> {
        self.act(path)?;
        LocalDisk.create_folder(path)
    }
    fn write(&mut self, path: &Path, content: &Content<'_>) -> Result<()> {
        let mut bytes = vec![];
        content(&mut bytes).unwrap();
        self.unsynced.insert(path.to_owned());
        let outcome = self.act(path);
        if outcome.is_ok() || self.renamed.is_none() && path.parent().unwrap().is_dir() {
            let half = if outcome.is_ok() { bytes.len() } else { bytes.len() / 2 };
            LocalDisk.write(path, &|out| out.write_all(&bytes[..half]))?;
        }
        outcome
    }
    fn sync(&mut self, path: &Path) -> Result<()> {
        self.act(path)?;
        self.unsynced.remove(path);
        LocalDisk.sync(path)
    }
    fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        self.act(to)?;
        self.renamed = Some((from.to_owned(), to.to_owned()));
        LocalDisk.rename(from, to)
    }
    fn remove(&mut self, path: &Path) -> Result<()> {
        self.act(path)?;
        LocalDisk.remove(path)
    }
}

#[test]
fn what_is_written_is_read_back_to_the_bit() {
    let root = TempDir::new().unwrap();
    assert_eq!(newest(&root.path().join("nowhere"), &spec()).unwrap(), None);
    for step in [0, 12] {
        let path = save(root.path(), step);
        assert_eq!(path, root.path().join(format!("step-{step:08}")));
        assert_eq!(newest(root.path(), &spec()).unwrap().unwrap(), snapshot(step));
    }
    assert_eq!(names(root.path()), ["step-00000012", "step-00000000"]);
    let left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "nothing lies beside them: {left:?}");
}

#[test]
fn a_machine_that_stops_anywhere_in_a_write_leaves_the_checkpoint_before_or_the_new_one() {
    let (mut before, mut after) = (0, 0);
    for acts in 0.. {
        let root = TempDir::new().unwrap();
        save(root.path(), 10);
        let mut disk = Failing::after(acts);
        let outcome = store::write(&mut disk, root.path(), &snapshot(12), &spec(), "a/model");
        let renamed = disk.renamed.is_some();
        disk.lose();
        let found = newest(root.path(), &spec()).unwrap().unwrap();
        if outcome.is_ok() {
            assert_eq!(found, snapshot(12));
            break;
        }
        assert_eq!(found, snapshot(if renamed { 12 } else { 10 }), "after {acts} acts");
        *(if renamed { &mut after } else { &mut before }) += 1;

        // The next start cleans up, and the write succeeds.
        let leftovers = usize::from(!renamed && acts > 0);
        assert_eq!(remove_leftovers(root.path()).unwrap(), leftovers, "after {acts} acts");
        save(root.path(), 12);
        assert_eq!(names(root.path()), ["step-00000012", "step-00000010"]);
        assert_eq!(newest(root.path(), &spec()).unwrap().unwrap(), snapshot(12));
    }
    assert!(before > 20 && after == 1, "{before} stops before the rename, {after} after it");
}

#[test]
fn any_file_missing_cut_or_changed_makes_a_checkpoint_count_for_nothing() {
    let pristine = TempDir::new().unwrap();
    let files = files_of(&save(pristine.path(), 12));
    assert_eq!(files.len(), 8, "{files:?}");
    for file in files {
        let name = file.strip_prefix(pristine.path()).unwrap();
        for damage in ["remove", "empty", "cut", "flip"] {
            let root = TempDir::new().unwrap();
            save(root.path(), 10);
            save(root.path(), 12);
            let path = root.path().join(name);
            let mut bytes = fs::read(&path).unwrap();
            match damage {
                "remove" => fs::remove_file(&path).unwrap(),
                "empty" => fs::write(&path, "").unwrap(),
                "cut" => fs::write(&path, &bytes[..bytes.len() - 1]).unwrap(),
                _ => {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                    fs::write(&path, &bytes).unwrap();
                }
            }
            let found = newest(root.path(), &spec()).unwrap().unwrap();
            assert_eq!(found.step, 10, "{damage} {}", name.display());
            assert!(matches!(load(&root.path().join("step-00000012"), &spec()), Err(Error::Corrupt { .. })));
            assert!(root.path().join("step-00000012").is_dir(), "the broken one is left for who wants to look");
        }
    }
}

#[test]
fn a_manifest_that_leaves_a_needed_file_out_is_not_whole() {
    let root = TempDir::new().unwrap();
    let path = save(root.path(), 12);
    let manifest = path.join(files::MANIFEST);
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    for name in ["optimizer.safetensors", "state.json", "config.toml", "adapter/adapter_config.json"] {
        let mut less = json.clone();
        less["files"].as_object_mut().unwrap().remove(name).unwrap();
        fs::write(&manifest, less.to_string()).unwrap();
        let error = load(&path, &spec()).unwrap_err();
        assert!(matches!(&error, Error::Corrupt { why, .. } if why.contains(name)), "{error}");
    }
    let mut later = json;
    later["format"] = 99.into();
    fs::write(&manifest, later.to_string()).unwrap();
    assert!(matches!(newest(root.path(), &spec()), Err(Error::Incompatible { .. })));
}

#[test]
fn a_whole_checkpoint_of_another_model_is_an_error_and_not_skipped() {
    let root = TempDir::new().unwrap();
    save(root.path(), 12);
    let deeper = ModelSpec { layers: 3, ..spec() };
    let error = newest(root.path(), &deeper).unwrap_err();
    assert!(matches!(error, Error::Incompatible { .. }) && error.to_string().contains("step-00000012"), "{error}");
}

#[test]
fn a_step_written_again_lies_beside_the_first_and_counts_as_newer() {
    let root = TempDir::new().unwrap();
    let first = save(root.path(), 12);
    assert_eq!(save(root.path(), 12), first, "the same again is not written twice");
    let drained = Snapshot { state: serde_json::json!({"cursor": 99}), ..snapshot(12) };
    let again = store::write(&mut LocalDisk, root.path(), &drained, &spec(), "a/model").unwrap();
    assert_eq!(again, root.path().join("step-00000012-r1"));
    assert_eq!(newest(root.path(), &spec()).unwrap().unwrap(), drained);
    assert_eq!(names(root.path()), ["step-00000012-r1", "step-00000012"]);
    fs::remove_file(again.join("state.json")).unwrap();
    assert_eq!(newest(root.path(), &spec()).unwrap().unwrap(), snapshot(12));
    let third = store::write(&mut LocalDisk, root.path(), &drained, &spec(), "a/model").unwrap();
    assert_eq!(third, root.path().join("step-00000012-r2"), "a broken one is not taken for the same");
}

#[test]
fn pruning_keeps_the_newest_and_so_many_beside_it_and_of_a_step_only_the_last() {
    let root = TempDir::new().unwrap();
    for step in [1, 2, 3, 4] {
        save(root.path(), step);
    }
    let again = Snapshot { config: "other = 1\n".to_owned(), ..snapshot(4) };
    write(root.path(), &again, &spec(), "a/model", 2).unwrap();
    assert_eq!(names(root.path()), ["step-00000004-r1", "step-00000003", "step-00000002"]);
    write(root.path(), &snapshot(5), &spec(), "a/model", 0).unwrap();
    assert_eq!(names(root.path()), ["step-00000005"]);
}

/// All weights of a model of [`spec`], none of them like another.
fn whole(salt: f32) -> FullWeights {
    struct Waves(f32);
    impl crate::formats::WeightReader for Waves {
        fn get(&self, name: &str, shape: &[usize]) -> crate::formats::Result<Vec<f32>> {
            let pace = self.0 + name.len() as f32;
            Ok((0..shape.iter().product()).map(|i: usize| (i as f32 * 0.3 + pace).sin()).collect())
        }
        fn has(&self, _: &str) -> bool {
            true
        }
        fn is_four_bit(&self, _: &str) -> bool {
            false
        }
    }
    FullWeights::from_weights(&spec(), &Waves(salt)).unwrap()
}

#[test]
fn a_checkpoint_of_all_weights_comes_back_to_the_bit_and_holds_none_of_them_twice() {
    let root = TempDir::new().unwrap();
    let learned: CriticWeights = whole(0.1).into();
    // In service: the base, what was learned (the same memory, or only the same values), something older.
    for (step, served) in
        [None, Some(learned.clone()), Some(whole(0.1).into()), Some(whole(0.2).into())].into_iter().enumerate()
    {
        let snapshot = Snapshot { critic: learned.clone(), served, ..snapshot(step as u64) };
        let path = write(root.path(), &snapshot, &spec(), "a/model", 10).unwrap();
        assert!(newest(root.path(), &spec()).unwrap().unwrap() == snapshot, "step {step}");
        let weights = files_of(&path).into_iter().filter(|file| file.ends_with("weights.safetensors"));
        assert_eq!(weights.count(), 1 + usize::from(step == 3), "step {step}");
        assert_eq!(write(root.path(), &snapshot, &spec(), "a/model", 10).unwrap(), path, "nothing new is written");
    }
    let path = list(root.path()).unwrap()[0].path.clone();
    let weights = path.join("weights/weights.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    assert!(load(&path, &spec()).unwrap_err().to_string().contains("weights.safetensors: expected sha256"));
    let other = ModelSpec { intermediate: 10, ..spec() };
    assert!(matches!(newest(root.path(), &other), Err(Error::Incompatible { .. })));
}

#[test]
fn a_power_loss_while_weights_are_written_leaves_the_checkpoint_before() {
    for acts in 0..40 {
        let root = TempDir::new().unwrap();
        save(root.path(), 1);
        let mut disk = Failing::after(acts);
        let snapshot = Snapshot { critic: whole(0.3).into(), served: Some(whole(0.4).into()), ..snapshot(2) };
        let written = store::write(&mut disk, root.path(), &snapshot, &spec(), "a/model");
        disk.lose();
        let newest = newest(root.path(), &spec()).unwrap().unwrap();
        assert!(newest == if newest.step == 2 { snapshot } else { self::snapshot(1) }, "{acts} acts");
        assert!(written.is_err() || newest.step == 2, "{acts} acts: what was acknowledged is there");
        if written.is_ok() {
            return;
        }
    }
    unreachable!("the disk lasts for one checkpoint");
}

#[test]
fn the_last_good_checkpoint_is_never_pruned() {
    let root = TempDir::new().unwrap();
    for step in [1, 2, 3, 4] {
        save(root.path(), step);
    }
    let state = root.path().join("step-00000004/state.json");
    let same_length = fs::read(&state).unwrap().iter().map(|_| b' ').collect::<Vec<_>>();
    fs::write(state, same_length).unwrap();
    fs::remove_file(root.path().join("step-00000003/manifest.json")).unwrap();
    assert_eq!(prune(root.path(), 0).unwrap(), 1);
    assert_eq!(names(root.path()), ["step-00000004", "step-00000003", "step-00000002"]);
    assert_eq!(newest(root.path(), &spec()).unwrap().unwrap(), snapshot(2));
}

#[test]
fn a_checkpoint_in_use_is_not_pruned_until_it_is_let_go() {
    let root = TempDir::new().unwrap();
    let path = save(root.path(), 1);
    let held = (acquire(&path).unwrap(), acquire(&path).unwrap());
    save(root.path(), 2);
    assert_eq!(prune(root.path(), 0).unwrap(), 0);
    assert_eq!(load(&path, &spec()).unwrap(), snapshot(1));
    drop(held);
    assert_eq!(prune(root.path(), 0).unwrap(), 1);
    assert_eq!(names(root.path()), ["step-00000002"]);
}

#[test]
fn cleaning_spares_what_a_living_writer_makes_and_what_is_not_ours() {
    let root = TempDir::new().unwrap();
    save(root.path(), 1);
    for name in [".writing-00000002-1", ".removing-step-00000000-1", ".writing-00000003-2", "step-7", "notes"] {
        fs::create_dir(root.path().join(name)).unwrap();
    }
    let living = fs::File::open(root.path().join(".writing-00000003-2")).unwrap();
    living.try_lock().unwrap();
    assert_eq!(remove_leftovers(root.path()).unwrap(), 2);
    let left: BTreeSet<_> =
        fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(left, [".writing-00000003-2", "notes", "step-00000001", "step-7"].map(str::to_owned).into());
    assert_eq!(names(root.path()), ["step-00000001"], "only names as we write them are checkpoints");
    drop(living);
    assert_eq!(remove_leftovers(root.path()).unwrap(), 1);
}

#[test]
fn a_failed_write_leaves_nothing_and_names_what_failed() {
    let root = TempDir::new().unwrap();
    let mut wrong = snapshot(3);
    wrong.critic = Adapter { factors: Default::default(), ..adapter(3.0) }.into();
    let error = write(root.path(), &wrong, &spec(), "a/model", 3).unwrap_err();
    assert!(matches!(error, Error::Snapshot { step: 3, .. }), "{error}");
    let mut twins = snapshot(3);
    twins.optimizer.push(twins.optimizer[0].clone());
    assert!(write(root.path(), &twins, &spec(), "a/model", 3).unwrap_err().to_string().contains("one name"));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);

    let file = root.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let error = write(&file, &snapshot(3), &spec(), "a/model", 3).unwrap_err();
    assert!(error.to_string().contains("file"), "{error}");
}

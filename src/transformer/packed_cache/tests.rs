use super::*;
use crate::formats;
use crate::kernels::{PassPrecisions, Precision};
use crate::transformer::Transformer;
use crate::transformer::decode::{Batch, Decoder, Forward as _};
use std::fs;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny_llama.q8_0.gguf")
}

/// The logits of a prompt, of a model loaded with the cache in `folder`, and whether the cache was written.
fn logits(folder: Option<&Path>) -> (Vec<f32>, bool) {
    let opened = formats::open(&golden()).unwrap();
    let cache = folder.map(|folder| PackedCache::in_folder(folder.to_owned(), &golden()).unwrap());
    let model = Transformer::load_cached(
        &opened.spec,
        opened.weights.as_ref(),
        PassPrecisions::decode_only(Precision::Int8),
        cache.as_ref(),
    );
    let writer = cache.and_then(PackedCache::finish);
    let is_written = writer.is_some();
    drop(writer);
    let mut decoder = Decoder::new(Arc::new(model.unwrap()), 4).unwrap();
    let (mut batch, mut logits) = (Batch::default(), vec![]);
    batch.push(&[1, 5, 9], 0, &[0], None, 3);
    decoder.step(&batch, &mut logits).unwrap();
    (logits, is_written)
}

fn only_file(folder: &Path) -> PathBuf {
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[test]
fn logits_are_the_same_to_the_bit_with_and_without_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let expected = logits(None).0;
    assert!(expected.iter().all(|logit| logit.is_finite()));
    assert_eq!(logits(Some(folder.path())), (expected.clone(), true));
    only_file(folder.path());
    assert_eq!(logits(Some(folder.path())), (expected, false));
}

/// What happens to a file.
type Damage<'a> = &'a dyn Fn(&mut Vec<u8>);

#[test]
fn a_damaged_file_is_ignored_and_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let expected = logits(Some(folder.path())).0;
    let path = only_file(folder.path());
    let whole = fs::read(&path).unwrap();
    let damage: [Damage; 6] = [
        &|bytes| bytes[1000] ^= 1,
        &|bytes| {
            let in_header = bytes.len() - 100;
            bytes[in_header] ^= 1;
        },
        &|bytes| bytes.truncate(bytes.len() / 2),
        &|bytes| bytes.clear(),
        &|bytes| bytes.extend_from_slice(b"more"),
        &|bytes| {
            let start = bytes.len() - 28;
            bytes[start] ^= 1;
        },
    ];
    for (index, damage) in damage.iter().enumerate() {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();
        assert_eq!(logits(Some(folder.path())), (expected.clone(), true), "damage {index}");
        assert_eq!(fs::read(&path).unwrap(), whole, "damage {index}");
    }
}

#[test]
fn a_file_of_another_version_or_model_is_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let expected = logits(Some(folder.path())).0;
    let path = only_file(folder.path());
    let whole = fs::read(&path).unwrap();
    let digest = source::digest(&golden()).unwrap();
    for (from, to) in
        [("\"version\":2", "\"version\":9"), ("int8 16x32", "int8 16x64"), (digest.as_str(), &"0".repeat(64))]
    {
        let mut bytes = whole.clone();
        let (trailer, start) = (bytes.len() - 28, bytes.len() - 28 - header_bytes(&whole));
        let text = String::from_utf8(bytes[start..trailer].to_vec()).unwrap();
        assert!(text.contains(from), "{text}");
        let text = text.replace(from, to);
        bytes[start..trailer].copy_from_slice(text.as_bytes());
        bytes[trailer + 16..trailer + 20].copy_from_slice(&crc32fast::hash(text.as_bytes()).to_le_bytes());
        fs::write(&path, bytes).unwrap();
        assert_eq!(logits(Some(folder.path())), (expected.clone(), true), "{to}");
        assert_eq!(fs::read(&path).unwrap(), whole, "{to}");
    }
}

fn header_bytes(whole: &[u8]) -> usize {
    u64::from_le_bytes(whole[whole.len() - 20..whole.len() - 12].try_into().unwrap()) as usize
}

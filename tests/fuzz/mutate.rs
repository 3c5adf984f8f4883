//! Changes to whole files: bits, numbers, lengths, cuts and splices of bytes; values, keys and nesting of JSON; pieces of
//! template source.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use serde_json::{Map, Value, json};

/// Numbers that readers trip over.
const NUMBERS: [u64; 18] = [
    0,
    1,
    2,
    3,
    31,
    255,
    256,
    65_536,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
    1 << 32,
    1 << 40,
    1 << 60,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 7,
    u64::MAX,
];

/// A number below `below`, which is not 0.
pub fn below(rng: &mut ChaCha8Rng, below: usize) -> usize {
    (rng.next_u64() % below.max(1) as u64) as usize
}

/// One of `list`.
pub fn one<'a, T>(rng: &mut ChaCha8Rng, list: &'a [T]) -> &'a T {
    &list[below(rng, list.len())]
}

fn number(rng: &mut ChaCha8Rng, length: usize) -> u64 {
    match below(rng, 4) {
        0 => (length as u64).wrapping_add(rng.next_u64() % 17).wrapping_sub(8),
        1 => rng.next_u64() >> below(rng, 64),
        _ => *one(rng, &NUMBERS),
    }
}

/// A place in `bytes`: in the first `head` of them mostly, and beside a name often, since lengths and types are there.
fn place(rng: &mut ChaCha8Rng, bytes: &[u8], head: usize) -> usize {
    let head = if below(rng, 16) == 0 { bytes.len() } else { head.min(bytes.len()) };
    let at = below(rng, head);
    if below(rng, 2) == 0 {
        return at;
    }
    let is_name = |byte: &u8| byte.is_ascii_lowercase() || matches!(byte, b'.' | b'_' | b'0'..=b'9');
    let start = bytes[at..].iter().position(is_name).map_or(at, |to| at + to);
    let end = bytes[start..].iter().position(|byte| !is_name(byte)).map_or(start, |to| start + to);
    let near = [start.saturating_sub(8), end, end + 4, end + 8, end + 12];
    (*one(rng, &near)).min(bytes.len().saturating_sub(1))
}

/// Changes `bytes` once to four times, most of all in the first `head`; pieces come from `other`.
pub fn change_bytes(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>, head: usize, other: &[u8]) {
    for _ in 0..=below(rng, 4) {
        if bytes.is_empty() {
            bytes.push(b'0');
        }
        let at = place(rng, bytes, head);
        match below(rng, 10) {
            0 | 1 => bytes[at] ^= 1 << below(rng, 8),
            2..=5 => {
                let value = number(rng, bytes.len()).to_le_bytes();
                let width = (*one(rng, &[1, 2, 4, 8, 8])).min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&value[..width]);
            }
            6 => bytes.truncate(at),
            7 => {
                let end = (at + 1 + below(rng, 64)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = place(rng, bytes, head);
                bytes.splice(to..to, piece);
            }
            8 => {
                let end = (at + 1 + below(rng, 64)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let from = below(rng, other.len());
                let piece = &other[from..(from + 1 + below(rng, 256)).min(other.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
}

/// A value that is out of place.
fn strange(rng: &mut ChaCha8Rng) -> Value {
    match below(rng, 14) {
        0 => Value::Null,
        1 => json!(below(rng, 2) == 0),
        2 | 3 => json!(number(rng, 100)),
        4 => json!(-(below(rng, 1 << 20) as i64)),
        5 => json!(*one(rng, &[1e308, -1e308, 1e-308, 0.5, -0.0, 1e10])),
        6 => json!(""),
        7 => json!("x".repeat(1 << below(rng, 14))),
        8 => json!(*one(rng, &["../a", "/dev/zero", "\u{0}", "\u{1f600}", "NaN", "Replace", "Sequence", "(a+)+$"])),
        9 => json!([]),
        10 => json!({}),
        11 => json!(vec![number(rng, 100); 1 << below(rng, 8)]),
        12 => (0..below(rng, 40)).fold(json!(1), |inner, _| json!([inner])),
        _ => (0..below(rng, 40)).fold(json!({}), |inner, _| json!({"type": "Sequence", "pretokenizers": [inner]})),
    }
}

fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(nodes).sum(),
        Value::Object(map) => map.values().map(nodes).sum(),
        _ => 0,
    }
}

/// The node of index `at`, in order.
fn node<'a>(value: &'a mut Value, at: &mut usize) -> Option<&'a mut Value> {
    if *at == 0 {
        return Some(value);
    }
    *at -= 1;
    match value {
        Value::Array(list) => list.iter_mut().find_map(|inner| node(inner, at)),
        Value::Object(map) => map.values_mut().find_map(|inner| node(inner, at)),
        _ => None,
    }
}

/// A node of `value`: near the root half of the time, since lists of tokens outnumber everything else.
fn any<'a>(rng: &mut ChaCha8Rng, value: &'a mut Value) -> &'a mut Value {
    if below(rng, 2) == 0 {
        let mut at = below(rng, nodes(value));
        return node(value, &mut at).expect("the index is below the number of nodes");
    }
    let mut inner = value;
    for _ in 0..=below(rng, 6) {
        let length = inner.as_object().map(Map::len).or(inner.as_array().map(Vec::len)).unwrap_or(0);
        if length == 0 {
            break;
        }
        let at = below(rng, length);
        inner = match inner {
            Value::Object(map) => map.values_mut().nth(at),
            Value::Array(list) => list.get_mut(at),
            _ => None,
        }
        .expect("the place is below the length");
    }
    inner
}

/// Changes the JSON `text` once to three times, as a tree or as bytes.
pub fn change_json(rng: &mut ChaCha8Rng, text: &[u8]) -> Vec<u8> {
    let mut bytes = text.to_vec();
    let Ok(mut value) = serde_json::from_slice::<Value>(text) else {
        change_bytes(rng, &mut bytes, usize::MAX, text);
        return bytes;
    };
    if below(rng, 6) == 0 {
        change_bytes(rng, &mut bytes, usize::MAX, text);
        return bytes;
    }
    for _ in 0..=below(rng, 3) {
        let new = match below(rng, 3) {
            0 => any(rng, &mut value).clone(),
            _ => strange(rng),
        };
        let choice = below(rng, 6);
        let at = rng.next_u64() as usize;
        match any(rng, &mut value) {
            Value::Array(list) if choice < 2 && !list.is_empty() => {
                let at = at % list.len();
                if choice == 0 { drop(list.remove(at)) } else { list.insert(at, new) }
            }
            Value::Object(map) if choice < 3 && !map.is_empty() => {
                let key = map.keys().nth(at % map.len()).cloned().expect("the place is below the length");
                match choice {
                    0 => drop(map.remove(&key)),
                    1 => drop(map.insert(key, new)),
                    _ => drop(map.insert("more".to_owned(), new)),
                }
            }
            other => *other = new,
        }
    }
    serde_json::to_vec(&value).expect("a tree is always JSON")
}

/// Pieces of templates that cost much, or nest.
const PIECES: [&str; 40] = [
    "{% for a in range(100000) %}",
    "{% for b in messages %}",
    "{% endfor %}",
    "{% if a %}",
    "{% else %}",
    "{% endif %}",
    "{% set x = 'aaaaaaaa' %}",
    "{% set x = x ~ x %}",
    "{% set x = [x, x] %}",
    "{% set ns = namespace(x='a') %}",
    "{% set ns.x = ns.x ~ ns.x %}",
    "{% set ns.x = [ns.x, ns.x] %}",
    "{% macro m(a) %}",
    "{% endmacro %}",
    "{{ m(x) }}",
    "{% set x %}",
    "{% endset %}",
    "{% filter indent(9999999) %}",
    "{% endfilter %}",
    "{{ x }}",
    "{{ ns.x }}",
    "{{ messages[0].content | indent(4611686018427387904) }}",
    "{{ x | center(99999999999) }}",
    "{{ x | indent(1000000, true) }}",
    "{{ 'x' * 99999999 }}",
    "{{ [1] * 99999999 }}",
    "{{ x.replace('', x) }}",
    "{{ x.join(range(100000)) }}",
    "{{ x | join(x) }}",
    "{{ messages | tojson(indent=9999999) }}",
    "{{ ns.x | tojson }}",
    "{{ ns.x == ns.x }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ x.strip(x) }}",
    "{{ range(100000) | list | sort | unique | batch(2) | list }}",
    "{{ x | replace('a', x) }}",
    "{{ strftime_now('%B' * 1000) }}",
    "{{ raise_exception(x) }}",
    "{{ messages[::-1] | map(attribute='content') | join }}",
    "{{ 2 ** 9999999 }}",
];

/// Changes the template `source`.
pub fn change_template(rng: &mut ChaCha8Rng, source: &str) -> String {
    let mut text = source.to_owned();
    for _ in 0..=below(rng, 6) {
        let starts: Vec<usize> = text.match_indices('{').map(|(at, _)| at).chain([0, text.len()]).collect();
        let at = *one(rng, &starts);
        match below(rng, 8) {
            0 => {
                let mut bytes = text.clone().into_bytes();
                change_bytes(rng, &mut bytes, usize::MAX, source.as_bytes());
                text = String::from_utf8_lossy(&bytes).into_owned();
            }
            1 => {
                let end = *one(rng, &starts);
                text.replace_range(at.min(end)..at.max(end), "");
            }
            2 => {
                let end = *one(rng, &starts);
                let piece = text[at.min(end)..at.max(end)].to_owned();
                text.insert_str(at, &piece);
            }
            3 => text.insert_str(at, &PIECES[below(rng, PIECES.len())].repeat(1 + below(rng, 40))),
            _ => text.insert_str(at, PIECES[below(rng, PIECES.len())]),
        }
        if text.len() > 1 << 16 {
            break;
        }
    }
    text
}

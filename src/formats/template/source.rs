//! Rewrites what Jinja with transformers' extensions understands and the template engine does not.
//!
//! - `{% generation %}` marks the assistant's text for training. Its body is a scope, so it becomes a `with` block.
//! - `'%s' % x` becomes `('%s'|format(x))`.
//!
//! Texts, comments and everything else stay as they are, byte by byte. A template that is not understood is left to the engine,
//! which says what is wrong with it.

/// The source in the engine's dialect.
pub(super) fn in_this_dialect(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((start, close)) = next_tag(rest) {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let Some(length) = length_of(tag, close) else { return out + tag };
        let (tag, after) = tag.split_at(length);
        rest = after;
        match close {
            "#}" => out.push_str(tag),
            _ => out.push_str(&formatted(&renamed(tag))),
        }
        if is_block(tag, "raw") {
            let end = rest.find("endraw").map_or(rest.len(), |end| end + "endraw".len());
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out + rest
}

/// Where the next tag begins, and what ends it.
fn next_tag(text: &str) -> Option<(usize, &'static str)> {
    let tags = [("{{", "}}"), ("{%", "%}"), ("{#", "#}")];
    tags.into_iter().filter_map(|(open, close)| Some((text.find(open)?, close))).min()
}

/// The length of the tag that `text` begins with; none if it has no end.
fn length_of(text: &str, close: &str) -> Option<usize> {
    if close == "#}" {
        return Some(text.find(close)? + close.len());
    }
    let mut at = 2;
    while at < text.len() {
        if text[at..].starts_with(close) {
            return Some(at + close.len());
        }
        at += step(&text[at..])?;
    }
    None
}

/// The length of the literal or the character that `text` begins with; none if a literal has no end.
fn step(text: &str) -> Option<usize> {
    let first = text.chars().next()?;
    if first != '\'' && first != '"' {
        return Some(first.len_utf8());
    }
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == first => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Whether `tag` is the block tag `name`.
fn is_block(tag: &str, name: &str) -> bool {
    let inside = tag.strip_prefix("{%").and_then(|tag| tag.strip_suffix("%}"));
    inside.is_some_and(|inside| inside.trim_matches(['-', '+']).trim() == name)
}

/// A block tag with the engine's own name.
fn renamed(tag: &str) -> String {
    let names = [("generation", "with"), ("endgeneration", "endwith")];
    let known = names.into_iter().find(|(name, _)| is_block(tag, name));
    known.map_or_else(|| tag.to_owned(), |(name, own)| tag.replacen(name, own, 1))
}

/// `tag` with `'...' % x` as a filter.
fn formatted(tag: &str) -> String {
    let mut out = String::with_capacity(tag.len());
    let mut at = 0;
    while at < tag.len() {
        // A literal without an end cannot be: the tag has one.
        let length = step(&tag[at..]).unwrap_or(1);
        let (token, after) = (&tag[at..at + length], &tag[at + length..]);
        at += length;
        let operand = token.starts_with(['\'', '"']).then(|| operand_of(after)).flatten();
        match operand {
            Some((arguments, length)) => {
                out += &format!("({token}|format({}))", formatted(arguments));
                at += length;
            }
            None => out.push_str(token),
        }
    }
    out
}

/// If `text` goes on with `% operand`: the arguments that this stands for, and its length.
fn operand_of(text: &str) -> Option<(&str, usize)> {
    let operand = text.trim_start().strip_prefix('%').filter(|rest| !rest.starts_with('}'))?.trim_start();
    let start = text.len() - operand.len();
    let length = length_of_unary(operand)?;
    let (operand, inside) = (&operand[..length], operand[..length].strip_prefix('('));
    // Of a tuple, each item is an argument.
    let tuple = inside.and_then(|inside| inside.strip_suffix(')'));
    let is_tuple = tuple.is_some() && length_of_group(operand) == Some(length) && has_comma(operand);
    Some((tuple.filter(|_| is_tuple).unwrap_or(operand).trim_end_matches([' ', ',']), start + length))
}

/// The length of the operand of `%` that `text` begins with: a literal, a name or a group, with its attributes, indices,
/// calls and filters.
fn length_of_unary(text: &str) -> Option<usize> {
    let name = |text: &str| text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    let first = text.chars().next()?;
    let mut at = match first {
        '(' | '[' | '{' => length_of_group(text)?,
        '\'' | '"' => step(text)?,
        '-' | '+' => 1 + name(&text[1..]),
        _ => name(text),
    };
    if at == 0 {
        return None;
    }
    loop {
        let rest = &text[at..];
        let spaces = rest.len() - rest.trim_start().len();
        at += match rest.trim_start().chars().next() {
            Some('(' | '[') => spaces + length_of_group(rest.trim_start())?,
            Some(mark @ ('.' | '|')) => {
                let after = &rest[spaces + 1..];
                let gap = if mark == '|' { after.len() - after.trim_start().len() } else { 0 };
                match name(&after[gap..]) {
                    0 => return Some(at),
                    length => spaces + 1 + gap + length,
                }
            }
            _ => return Some(at),
        };
    }
}

/// The length of the brackets that `text` begins with, and of what is in them.
fn length_of_group(text: &str) -> Option<usize> {
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        let length = step(&text[at..])?;
        match &text[at..at + length] {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.checked_sub(1)?,
            _ => {}
        }
        at += length;
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// Whether the brackets `group` have a comma that is in no other brackets.
fn has_comma(group: &str) -> bool {
    let (mut depth, mut at) = (0usize, 0);
    while let Some(length) = step(&group[at..]) {
        match &group[at..at + length] {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            "," if depth == 1 => return true,
            _ => {}
        }
        at += length;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percent_sign_behind_a_text_formats_it() {
        for (source, expected) in [
            ("{{ '%s' % x }}", "{{ ('%s'|format(x)) }}"),
            ("{{ '%s' % x.a[0] | upper ~ y }}", "{{ ('%s'|format(x.a[0] | upper)) ~ y }}"),
            ("{{ \"%s-%d\" % (a, b['%']) + 'c' }}", "{{ (\"%s-%d\"|format(a, b['%'])) + 'c' }}"),
            ("{% set x = '%s' % ('%d' % 3) %}", "{% set x = ('%s'|format((('%d'|format(3))))) %}"),
            ("{{ '%s' % (a,) }}", "{{ ('%s'|format(a)) }}"),
            ("{{ 'a' }}% x {{ 7 % 2 }}", "{{ 'a' }}% x {{ 7 % 2 }}"),
            ("{% if x == 'a' %}% y{% endif %}", "{% if x == 'a' %}% y{% endif %}"),
            ("{# '%s' % x #}", "{# '%s' % x #}"),
            ("{% raw %}{{ '%s' % x }}{% endraw %}", "{% raw %}{{ '%s' % x }}{% endraw %}"),
            ("{{ '%s' % }}", "{{ '%s' % }}"),
            ("{{ 'never closed", "{{ 'never closed"),
        ] {
            assert_eq!(in_this_dialect(source), expected);
        }
    }

    #[test]
    fn a_generation_block_is_a_scope() {
        let source = "{%- generation -%}{{ 'generation' }}{% endgeneration %}generation";
        assert_eq!(in_this_dialect(source), "{%- with -%}{{ 'generation' }}{% endwith %}generation");
    }
}

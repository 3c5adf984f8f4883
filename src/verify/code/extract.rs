//! The program in a text.
//!
//! 1. Of the fenced Python blocks, the last closed one that defines the function with a body, with the imports and definitions of
//!    the others.
//! 2. Without one, the text itself, without prose before and behind its code.
//!    A last statement that was cut off is left out, unless it is the function.
//! 3. Code that does not define the function continues the prompt's preamble.

use super::scan::{is_prose, without_cut_end};
use super::task::CodeTask;
use crate::types::pattern::pattern;
use regex::Regex;
use std::sync::LazyLock;

/// A fenced block, dedented.
struct Block {
    code: String,
    closed: bool,
}

/// The complete program of `text`, which has no thoughts.
pub(super) fn program(task: CodeTask<'_>, text: &str) -> String {
    static END: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?:\s*(?:<\|\w+\|>|</s>|<eos>|<end_of_turn>))+\s*$"));
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace('\r', "\n");
    let text = END.replace(&text, "");
    let name = task.entry_point;
    let code = match fenced(&text, name) {
        Some(code) => code,
        None => dedented_definition(without_cut(&bare(&text), name), name),
    };
    let (future, code) = without_future(&code);
    if defines(&code, name) {
        // Imports and helpers of the preamble stay.
        let before = head(task.preamble, name).map_or("", |at| &task.preamble[..at]);
        return format!("{future}{before}{code}\n");
    }
    format!("{future}{}{}\n", task.preamble, as_body(&code))
}

/// `code` as the body of a function, indented by four. A first line without indentation may have lost it alone.
fn as_body(code: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start_matches([' ', '\t']).len();
    let mut written = code.lines().filter(|line| !line.trim().is_empty());
    let first = written.next().unwrap_or_default();
    let own = indent(first);
    if own > 0 {
        let (code, own) = (body(code), &first[..own]);
        let placed = |line: &str| line.strip_prefix(own).map_or_else(|| line.to_owned(), |rest| format!("    {rest}"));
        return code.lines().map(placed).collect::<Vec<_>>().join("\n");
    }
    let rest = written.clone().map(indent).min().unwrap_or_default();
    let next = written.next().map_or(0, indent);
    let lost = rest > 0 && (!first.trim_end().ends_with(':') || next > rest);
    let placed = |(at, line): (usize, &str)| if lost && at > 0 { line.to_owned() } else { format!("    {line}") };
    code.trim_start_matches('\n').lines().enumerate().map(placed).collect::<Vec<_>>().join("\n")
}

/// The code of the fenced blocks; `None` if none of them is Python's.
fn fenced(text: &str, name: &str) -> Option<String> {
    let blocks = blocks(text);
    let defining = |block: &&Block| defines(&block.code, name);
    let complete = |block: &Block| block.closed && is_complete(&block.code, name);
    let chosen = blocks.iter().rposition(complete);
    let chosen = chosen.or_else(|| blocks.iter().rposition(|block| block.closed && defining(&block)));
    let chosen = chosen.or_else(|| blocks.iter().rposition(|block| defining(&block)));
    let Some(chosen) = chosen else { return Some(blocks.into_iter().next()?.code) };
    let mut code = String::new();
    for (index, block) in blocks.iter().enumerate() {
        let part = match index == chosen {
            true if !block.closed => without_cut(&bare(&block.code), name),
            true => block.code.clone(),
            false if defining(&block) => continue,
            false => definitions(&block.code, index < chosen),
        };
        if !part.trim().is_empty() {
            code += part.trim_end();
            code += "\n\n";
        }
    }
    Some(code)
}

/// `code`, whose end may be missing, without a statement behind the definition of `name` that was cut off.
fn without_cut(code: &str, name: &str) -> String {
    head(code, name).map_or(code, |first| without_cut_end(code, first)).to_owned()
}

/// The blocks of `text` that may be Python's. What stands before a closing fence without an opening one is a block too, and so is what an
/// opening fence at the end begins.
fn blocks(text: &str) -> Vec<Block> {
    static ONE_LINE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"^\s*(?:```|~~~)(?i:python3?|py)?\s+(\S.*?)\s*(?:```|~~~)\s*$|^\s*```(def\s.*?)\s*```\s*$")
    });
    let mut blocks = Vec::new();
    let mut open: Option<Fence> = None;
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines() {
        match &open {
            Some(fence) if fence.is_closed_by(line) && !in_docstring(&lines) => {
                blocks.extend(fence.is_python.then(|| block(&lines, true)));
                (open, lines) = (None, Vec::new());
            }
            Some(fence) => {
                lines.push(line);
                if let Some(code) = fence.closed_behind(line).filter(|_| !in_docstring(&lines)) {
                    lines.pop();
                    lines.push(code);
                    blocks.extend(fence.is_python.then(|| block(&lines, true)));
                    (open, lines) = (None, Vec::new());
                }
            }
            None => match (ONE_LINE.captures(line), Fence::opened_by(line)) {
                (Some(found), _) => {
                    let code = found.get(1).or(found.get(2)).map_or("", |code| code.as_str());
                    blocks.push(Block { code: code.to_owned(), closed: true });
                }
                (None, Some(fence)) => {
                    // The prompt opened the fence that this one closes.
                    let closes = fence.tag.is_empty() && blocks.is_empty() && looks_like_code(&lines);
                    if closes {
                        blocks.push(block(&lines, true));
                    }
                    open = (!closes).then_some(fence);
                    lines.clear();
                }
                (None, None) => lines.push(line),
            },
        }
    }
    if let Some(fence) = open.filter(|fence| fence.is_python && !lines.iter().all(|line| line.trim().is_empty())) {
        blocks.extend(fence.is_python.then(|| block(&lines, false)));
    }
    blocks
}

/// The start of a fenced block.
struct Fence {
    sign: char,
    length: usize,
    tag: String,
    is_python: bool,
}

impl Fence {
    fn opened_by(line: &str) -> Option<Self> {
        static TAG: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\{?\.?([A-Za-z0-9+#_-]*)"));
        static BEHIND_TEXT: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[^`]*[^`\s][^`]*(```(?i:python3?|py)\s*)$"));
        let line = BEHIND_TEXT.captures(line).and_then(|found| found.get(1)).map_or(line, |fence| fence.as_str());
        let line = line.trim_start_matches(['>', ' ', '\t']);
        let sign = line.chars().next().filter(|sign| "`~".contains(*sign))?;
        let length = line.chars().take_while(|c| *c == sign).count();
        let rest = line[length..].trim();
        if length < 3 || sign == '`' && rest.contains('`') {
            return None;
        }
        let tag = TAG.captures(rest).map_or(String::new(), |found| found[1].to_lowercase());
        let is_python =
            tag.is_empty() || tag.starts_with("py") || tag == "ipython" || tag == "ipython3" || tag == "sage";
        Some(Self { sign, length, tag, is_python })
    }

    fn is_closed_by(&self, line: &str) -> bool {
        let line = line.trim_start_matches(['>', ' ', '\t']).trim_end();
        line.chars().count() >= self.length && line.chars().all(|c| c == self.sign)
    }

    /// The code before the fence at the end of `line`, if that closes this one.
    fn closed_behind<'a>(&self, line: &'a str) -> Option<&'a str> {
        let line = line.trim_end();
        let code = line.trim_end_matches(self.sign);
        (line.len() - code.len() == self.length && !code.trim().is_empty()).then_some(code)
    }
}

/// Whether a docstring is open behind `lines`: what it holds closes no block.
fn in_docstring(lines: &[&str]) -> bool {
    lines.iter().fold(None, |open, line| quotes_behind(line, open)).is_some()
}

/// The triple quotes that are open behind `line`, where those of `open` are open before it.
fn quotes_behind<'a>(line: &'a str, mut open: Option<&'a str>) -> Option<&'a str> {
    let mut rest = line;
    while let Some((at, quotes)) = next_quotes(rest, open) {
        open = if open.is_some() { None } else { Some(quotes) };
        rest = &rest[at + 3..];
    }
    open
}

/// The next triple quotes; where some are open, those that close them. Behind `#` there are none.
fn next_quotes<'a>(text: &str, open: Option<&'a str>) -> Option<(usize, &'a str)> {
    if let Some(open) = open {
        return text.find(open).map(|at| (at, open));
    }
    let ends = text.find('#').unwrap_or(text.len());
    let found = ["\"\"\"", "'''"].into_iter().filter_map(|quotes| Some((text.find(quotes)?, quotes)));
    found.min().filter(|(at, _)| *at < ends)
}

fn block(lines: &[&str], closed: bool) -> Block {
    // Lines of a quoted block.
    let quoted = !lines.is_empty() && lines.iter().all(|line| line.starts_with('>'));
    let lines: Vec<&str> = lines
        .iter()
        .map(|line| if quoted { line[1..].strip_prefix(' ').unwrap_or(&line[1..]) } else { line })
        .collect();
    Block { code: dedented(&lines), closed }
}

/// `lines` without the indentation that all of them have, if they define something; the body of a function keeps its own.
fn dedented(lines: &[&str]) -> String {
    static TOP: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\s+(?:def|class|import|from|async|@)"));
    let indent = |line: &&&str| line.len() - line.trim_start_matches([' ', '\t']).len();
    let written = lines.iter().filter(|line| !line.trim().is_empty());
    let common = written.clone().map(|line| indent(&line)).min().unwrap_or_default();
    if common == 0 || !written.clone().next().is_some_and(|line| TOP.is_match(line)) {
        return lines.join("\n");
    }
    lines.iter().map(|line| line.get(common..).unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// `text` without the indentation of all of it, if that makes it define `name`.
fn dedented_definition(text: String, name: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let dedented = dedented(&lines);
    if defines(&dedented, name) { dedented } else { text }
}

/// Whether `code` gives `name` a value at its top level.
fn defines(code: &str, name: &str) -> bool {
    head(code, name).is_some() || {
        let assigned = |line: &str| {
            let behind = line.strip_prefix(name).map(str::trim_start);
            behind.is_some_and(|rest| {
                rest.starts_with('=') && !rest.starts_with("==") || rest.starts_with(':') && rest.contains('=')
            })
        };
        code.lines().any(assigned)
    }
}

/// Where the function's definition begins.
fn head(code: &str, name: &str) -> Option<usize> {
    let mut at = 0;
    for line in code.split_inclusive('\n') {
        let behind = line.strip_prefix("async ").unwrap_or(line).strip_prefix("def ").map(str::trim_start);
        let behind = behind.and_then(|rest| rest.strip_prefix(name)).map(str::trim_start);
        if behind.is_some_and(|rest| rest.starts_with(['(', '['])) {
            return Some(at);
        }
        at += line.len();
    }
    None
}

/// Whether `code` gives `name` a value that is more than a signature or a placeholder.
fn is_complete(code: &str, name: &str) -> bool {
    static STUB: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(?:\.\.\.|pass|#.*)?$"));
    let Some(at) = head(code, name) else { return defines(code, name) };
    let mut depth = 0i32;
    let end = code[at..].char_indices().find(|(_, c)| {
        depth += i32::from("([{".contains(*c)) - i32::from(")]}".contains(*c));
        depth == 0 && ":\n".contains(*c)
    });
    let Some((length, ':')) = end else { return false };
    let (mut lines, mut open) = (code[at + length + 1..].lines(), None);
    let on_head = lines.next().is_some_and(|line| !STUB.is_match(line.trim()));
    on_head || {
        let body = lines.take_while(|line| line.is_empty() || line.starts_with([' ', '\t']));
        body.into_iter().any(|line| {
            let inside = open.is_some();
            open = quotes_behind(line, open);
            let line = line.trim();
            !inside && !line.starts_with(['"', '\'']) && !STUB.is_match(line)
        })
    }
}

/// What `code` imports and defines at its top level and, where `values` are allowed and it does nothing else, assigns.
fn definitions(code: &str, values: bool) -> String {
    static DEFINES: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^(?:import |from \S+ import |def |class |async def |@)"));
    static ASSIGNS: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[A-Za-z_]\w*(?:\s*:[^=]+)?\s*=[^=]"));
    let goes_on = |line: &str| line.is_empty() || line.starts_with([' ', '\t', '#', ')', ']', '}']);
    let values = values && code.lines().all(|line| goes_on(line) || DEFINES.is_match(line) || ASSIGNS.is_match(line));
    let (mut kept, mut any, mut keeps, mut open) = (String::new(), false, false, None);
    for line in code.lines() {
        if open.is_none() && !goes_on(line) {
            keeps = DEFINES.is_match(line) || values && ASSIGNS.is_match(line);
            any |= keeps;
        }
        open = quotes_behind(line, open);
        if keeps {
            kept += line;
            kept.push('\n');
        }
    }
    if any { kept } else { String::new() }
}

fn looks_like_code(lines: &[&str]) -> bool {
    let first = lines.iter().find(|line| !line.trim().is_empty());
    first.is_some_and(|line| {
        line.starts_with([' ', '\t']) && !line.trim_start().starts_with(['-', '*', '#']) || begins_code(line)
    }) || lines.iter().any(|line| line.starts_with("def "))
}

fn begins_code(line: &str) -> bool {
    static BEGINS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"^(?:import \w|from \S+ import |def \w+|class \w+|async def |@\w|return\b|[A-Za-z_]\w*\s*=\s*lambda\b)",
        )
    });
    BEGINS.is_match(line)
}

static CODE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r#"^(?:\s|$|#|[)\]}"']|@\w|(?:import|from|def|class|async|if|for|while|with|elif|return|assert|raise|del|global|print)\b\s*\S|(?:try|else|finally|except)\b.*:|[A-Za-z_][\w.]*(?:\[[^\]]*\])?\s*(?:[-+*/|&%]?=|\(|:\s*\w+.*=))"#,
    )
});

/// Whether `line` may be code. What is indented belongs to what is above it.
fn is_code(line: &str) -> bool {
    CODE.is_match(line) && (line.starts_with([' ', '\t']) || !is_prose(line))
}

/// `text` without the prose before and behind its definitions.
fn bare(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.iter().position(|line| begins_code(line) && !is_prose(line));
    let body = lines.iter().find(|line| !line.trim().is_empty()).is_some_and(|line| line.starts_with([' ', '\t']));
    let Some(first) = first.filter(|_| !body) else { return text.to_owned() };
    // Values before a definition, and what comes before a bare body, are code too.
    let from = first - lines[..first].iter().rev().take_while(|line| is_code(line)).count();
    let mut open = None;
    let kept = lines[from..].iter().skip_while(|line| line.trim().is_empty()).take_while(|line| {
        let inside = open.is_some();
        open = quotes_behind(line, open);
        inside || is_code(line)
    });
    kept.copied().collect::<Vec<_>>().join("\n")
}

/// The body of a function, and what code follows it, without the prose behind.
fn body(code: &str) -> String {
    code.lines().take_while(|line| is_code(line)).collect::<Vec<_>>().join("\n")
}

/// The imports from `__future__` in `code`, which come before all else, and the rest.
fn without_future(code: &str) -> (String, String) {
    let (future, rest): (Vec<&str>, Vec<&str>) =
        code.lines().partition(|line| line.starts_with("from __future__ import"));
    let mut future = future.join("\n");
    if !future.is_empty() {
        future.push('\n');
    }
    (future, rest.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TASK: CodeTask<'static> = CodeTask {
        entry_point: "square",
        test: "",
        preamble: "import math\n\ndef square(x):\n    \"\"\"Square.\"\"\"\n",
    };
    const RIGHT: &str = "def square(x):\n    return x*x";

    #[test]
    fn the_program_is_found_in_whatever_surrounds_it() {
        for text in [
            RIGHT.to_owned(),
            format!("```python\n{RIGHT}\n```"),
            format!("```PYTHON\n{RIGHT}\n```"),
            format!("```py3\n{RIGHT}\n```"),
            format!("```{{python}}\n{RIGHT}\n```"),
            format!("```python title=\"a.py\"\n{RIGHT}\n```"),
            format!("~~~~\n{RIGHT}\n~~~~"),
            format!("```bash\npip install x\n```\n```python\n{RIGHT}\n```"),
            format!("```python\ndef square(x):\n    return x+x\n```\nWait:\n```python\n{RIGHT}\n```"),
            format!("```python\n{RIGHT}\n```\nOr:\n```python\ndef square(x):\n    return x +"),
            format!("```python\n{RIGHT}\n```\n```python\nprint(square(2))\n```"),
            format!("{RIGHT}\n```\nThis squares."),
            format!("```python\n{RIGHT}\n```<|im_end|>"),
            format!("```python\n{RIGHT}\n\nThis squares x."),
            format!("```python\n{RIGHT}\n```\nIn short:\n```python\ndef square(x):\n    ...\n```"),
            format!("```python\n{RIGHT}\n```\nIn short:\n```python\ndef square(x: int) -> int:\n```"),
            format!("```python\n{RIGHT}\n```\nOr:\n```python\ndef square(x)\n    return x+x\n```"),
            format!("Here it is:\n\n{RIGHT}\n\nThis squares x."),
            format!("\u{feff}```python\r\n{}\r\n```", RIGHT.replace('\n', "\r\n")),
            format!("1. So:\n   ```python\n   {}\n   ```", RIGHT.replace('\n', "\n   ")),
            format!("> ```python\n> {}\n> ```", RIGHT.replace('\n', "\n> ")),
        ] {
            assert_eq!(program(TASK, &text).trim_end(), format!("import math\n\n{RIGHT}"), "{text}");
        }
    }

    #[test]
    fn helpers_in_other_blocks_come_along() {
        let text = format!(
            "```python\nimport os\n```\n```python\n{RIGHT}\n```\n```python\ndef other():\n    pass\n```\n```python\nx = square(2)\n```"
        );
        assert_eq!(
            program(TASK, &text).trim_end(),
            format!("import math\n\nimport os\n\n{RIGHT}\n\ndef other():\n    pass")
        );
    }

    #[test]
    fn helpers_come_along_without_what_runs_beside_them() {
        let text = "```python\ndef square(x):\n    return twice(x)\n```\n```python\ndef twice(x):\n    return x*x\n\nprint(square(2))\n```";
        assert_eq!(
            program(TASK, text).trim_end(),
            "import math\n\ndef square(x):\n    return twice(x)\n\ndef twice(x):\n    return x*x"
        );
    }

    #[test]
    fn a_body_is_indented_as_the_preamble_is() {
        for (text, body) in [
            ("  y = x\n  return y*x", "    y = x\n    return y*x"),
            ("\treturn x*x", "    return x*x"),
            ("y = x\n    return y*x", "    y = x\n    return y*x"),
            ("for y in x:\n    z = y\nreturn z", "    for y in x:\n        z = y\n    return z"),
            ("for y in x:\n        z = y\n    return z", "    for y in x:\n        z = y\n    return z"),
        ] {
            assert_eq!(program(TASK, text).trim_end(), format!("{}{body}", TASK.preamble), "{text}");
        }
    }

    #[test]
    fn a_fence_in_a_docstring_closes_nothing() {
        let code = "def square(x):\n    \"\"\"Like\n    ```\n    square(2)\n    ```\n    \"\"\"\n    return x*x";
        assert_eq!(
            program(TASK, &format!("```python\n{code}\n```\nDone.")).trim_end(),
            format!("import math\n\n{code}")
        );
    }

    #[test]
    fn a_body_continues_the_preamble_and_a_future_comes_first() {
        for text in ["    return x*x\n", "    return x*x\n\nThis squares.", "    return x*x\n```", "return x*x"] {
            assert_eq!(program(TASK, text).trim_end(), format!("{}    return x*x", TASK.preamble), "{text}");
        }
        let future = "from __future__ import annotations";
        let text = format!("```python\n{future}\n{RIGHT}\n```");
        assert_eq!(program(TASK, &text).trim_end(), format!("{future}\nimport math\n\n{RIGHT}"));
    }

    proptest! {
        #[test]
        fn any_text_gives_a_program_without_a_panic(text in "(```|~~~|python|def square|\"\"\"|'''|[ \n(>:x]|\\PC){0,60}") {
            let _ = program(TASK, &text);
        }
    }
}

//! Thoughts: what a reasoning model writes before it answers.

use super::pattern::pattern;
use regex::Regex;
use std::sync::LazyLock;

/// `text` without the thoughts before its answer. Thoughts stand between tags (`<think>`, `[THINK]`, channels) or before a closing
/// tag, where the prompt opened them; those that never end leave nothing.
pub fn without_thoughts(text: &str) -> &str {
    static CLOSED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)</(?:think|thinking|thought|thoughts|reason|reasoning|analysis|scratchpad|reflection|inner_monologue|seed:think)>|<\|/(?:think|thinking)\|>|<\|END_THINKING\|>|<unused95>|\[/THINK\]|<\|end_of_thought\|>|◁/think▷|<\|channel\|>final<\|message\|>",
        )
    });
    static OPENED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?im)^\s*(?:<(?:think|thinking|thought|thoughts|reason|reasoning|analysis|scratchpad|reflection|inner_monologue|seed:think)>|<\|(?:think|thinking)\|>|<\|START_THINKING\|>|<unused94>|\[THINK\]|<\|begin_of_thought\|>|◁think▷|(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)<\|message\|>)",
        )
    });
    static SOLUTION: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"^\s*<\|(?:begin_of_solution|START_RESPONSE)\|>|<\|(?:end_of_solution|END_RESPONSE|return)\|>\s*$")
    });
    let answer = CLOSED.find_iter(text).last().map_or(text, |closed| &text[closed.end()..]);
    // An answer may stand before its reasons.
    let ahead = OPENED.find(text).map_or("", |opened| &text[..opened.start()]);
    let answer = if answer.trim().is_empty() && !ahead.trim().is_empty() { ahead } else { answer };
    let answer = OPENED.find(answer).map_or(answer, |opened| &answer[..opened.start()]);
    let start = SOLUTION.find(answer).filter(|found| found.start() == 0).map_or(0, |found| found.end());
    let answer = &answer[start..];
    SOLUTION.find(answer).map_or(answer, |found| &answer[..found.start()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thoughts_are_left_out_however_they_are_marked() {
        for (text, expected) in [
            ("B", "B"),
            ("<think>A?</think>\n\nB", "\n\nB"),
            ("<thinking>\nA?\n</thinking>B", "B"),
            ("A? No.</think>B", "B"),
            ("[THINK]A?[/THINK]B", "B"),
            ("<think>A? <think>still</think> no</think>B", "B"),
            ("<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>final<|message|>B", "B"),
            ("<|begin_of_thought|>A<|end_of_thought|>\n<|begin_of_solution|>B<|end_of_solution|>", "B"),
            ("<|START_THINKING|>A<|END_THINKING|><|START_RESPONSE|>B<|END_RESPONSE|>", "B"),
            ("<unused94>thought\nA<unused95>B", "B"),
            ("<scratchpad>A</scratchpad>B", "B"),
            ("<answer>B</answer>\n<reasoning>as A fails</reasoning>", "<answer>B</answer>\n"),
            ("<think>A looks better so far", ""),
            ("<|channel|>analysis<|message|>A looks", ""),
            ("The tag `<think>` is plain text here", "The tag `<think>` is plain text here"),
            ("", ""),
        ] {
            assert_eq!(without_thoughts(text), expected, "{text:?}");
        }
    }
}

use super::*;
use proptest::prelude::*;
use serde::Deserialize;

const A: Option<Choice> = Some(Choice::A);
const B: Option<Choice> = Some(Choice::B);
const TIE: Option<Choice> = Some(Choice::Tie);

/// Each reply is read whole.
fn check(replies: &[(&str, Option<Choice>)]) {
    let wrong: Vec<_> = replies
        .iter()
        .map(|(text, want)| (text, want, read(text, false)))
        .filter(|(_, want, got)| *want != got)
        .collect();
    assert!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), replies.len());
}

#[test]
fn bare_verdicts_are_read_in_every_spelling() {
    check(&[
        ("A", A),
        (" B\n", B),
        ("b.", B),
        ("a", A),
        ("Answer A", A),
        ("answer b", B),
        ("Answer: B", B),
        ("**B**", B),
        ("(A)", A),
        ("\"B\"", B),
        ("`A`", A),
        ("[B]", B),
        ("<b>", B),
        ("1", A),
        ("2.", B),
        ("Answer 2", B),
        ("Response 1", A),
        ("first", A),
        ("The second one.", B),
        ("The former", A),
        ("Option A.", A),
        ("Assistant B", B),
        ("Model A", A),
        ("I choose B.", B),
        ("It is A.", A),
        ("Tie.", TIE),
        ("TIE", TIE),
        ("tied", TIE),
        ("Equal", TIE),
        ("Draw", TIE),
        ("Verdict: tie", TIE),
        ("\u{ff21}", A),
        ("\u{410}", A),
        ("\u{feff}B", B),
        ("答案是B", B),
        ("答案A", A),
        ("Antwort B", B),
        ("Respuesta A.", A),
        ("réponse b", B),
        ("A A A A", A),
    ]);
}

#[test]
fn marked_verdicts_beat_prose() {
    check(&[
        ("[[A]]", A),
        ("[[b]]", B),
        ("[[C]]", TIE),
        ("[[tie]]", TIE),
        ("[[Tie]]", TIE),
        ("[[Answer A]]", A),
        ("[[A>B]]", A),
        ("[[A>>B]]", A),
        ("[[B>A]]", B),
        ("[[B >> A]]", B),
        ("[[A=B]]", TIE),
        ("[[A<B]]", B),
        ("[[A<<B]]", B),
        ("My final verdict is: [[A>B]]", A),
        ("Both have flaws, but overall [[B]]", B),
        ("[[A]] is what I thought at first. Final verdict: [[B]]", B),
        ("The first answer says: \"[[A]]\". The verdict is [[B]].", B),
        ("The verdict was [[A]], but on reflection the final verdict: [[B]]", B),
        ("[[A]]\n[[A]]", A),
        ("A is better in style. [[B]]", B),
        ("[[A]] or [[B]]", None),
        ("Output your verdict as [[A]] or [[B]]. I choose [[B]]", B),
        ("A \u{2248} B", TIE),
        ("model_b is better", B),
        ("{\"winner\": \"A\"}", A),
        ("{\"winner\": \"tie\", \"reason\": \"A and B agree\"}", TIE),
        ("```json\n{\"reason\": \"A is wrong\", \"verdict\": \"B\"}\n```", B),
        ("{\"choice\": 2}", B),
        ("{\"better\": \"Answer A\"}", A),
        ("{\"verdict\": \"none\"}", None),
        ("\\boxed{A}", A),
        ("So $\\boxed{\\text{B}}$.", B),
        ("<answer>B</answer>", B),
        ("<verdict> tie </verdict>", TIE),
        ("A looks good. Verdict: B", B),
        ("Final answer: A", A),
        ("**Final Verdict:** Response B", B),
        ("Winner: Assistant A", A),
        ("The winner is B, though A is shorter.", B),
        ("B is shorter. My decision: A", A),
        ("Conclusion -> B", B),
        ("Verdict: A or B", None),
        ("A > B", A),
        ("B >> A", B),
        ("A = B", TIE),
        ("Reasoning: both try.\nA < B", B),
    ]);
}

#[test]
fn comparisons_are_read_by_what_they_say_of_their_subject() {
    check(&[
        ("A is better", A),
        ("A is better than B.", A),
        ("Answer B is better than answer A because it is right.", B),
        ("The better answer is B.", B),
        ("A better answer is B.", B),
        ("B is the better answer.", B),
        ("I prefer answer A.", A),
        ("I prefer A over B.", A),
        ("I prefer B to A.", B),
        ("I would choose the first answer.", A),
        ("I don't prefer A.", None),
        ("A over B", A),
        ("A beats B", A),
        ("B wins.", B),
        ("A wins over B", A),
        ("B outperforms A", B),
        ("Response A surpasses response B", A),
        ("A is slightly better.", A),
        ("A is slightly worse.", B),
        ("A is slightly worse than B.", B),
        ("B is much worse", A),
        ("A is inferior to B", B),
        ("B is superior to A", B),
        ("A is less accurate than B", B),
        ("A is more accurate than B", A),
        ("B has fewer errors", B),
        ("B has more errors than A", A),
        ("B is less wrong than A", B),
        ("The worse answer is A.", B),
        ("A isn't better than B; B wins.", B),
        ("A is not better.", None),
        ("A isn't worse.", None),
        ("A is good, but B is better.", B),
        ("Both are wrong, but A is closer.", A),
        ("Neither is perfect, the second is better", B),
        ("While A is shorter, B is clearer.", B),
        ("Compared to A, B is better", B),
        ("The first answer is better.", A),
        ("The second response is better than the first one.", B),
        ("Answer 1 is better than answer 2.", A),
        ("Model A is better", A),
        ("A deserves the win", A),
        ("In a nutshell, a clear B", B),
        ("After all A/B comparison: B", B),
        ("Between A & B, B.", B),
        ("A vs. B: B", B),
        ("Grade: A: 4/10, B: 9/10", B),
        ("A: 8/10\nB: 8/10", TIE),
        ("A gets 7 points and B gets 3 points", A),
        ("A is better. B is better.", None),
        ("A is as good as B", TIE),
        ("A is not as good as B.", B),
        ("A defeats B", A),
        ("A resembles B", None),
        ("A ties with B", TIE),
        ("A is beaten by B", B),
        ("A is outperformed by B", B),
        ("I rate A lower than B", B),
        ("A instead of B", A),
        ("The error in A makes B better.", B),
        ("Is A better than B?", None),
        ("Is A better? No. B is.", B),
        ("A is right and B is wrong", A),
        ("Verdict: A is worse", B),
        ("{\"loser\": \"A\"}", B),
        ("{\"verdict\": \"A is better\"}", A),
        ("A\u{3088}\u{308a}B\u{306e}\u{65b9}\u{304c}\u{826f}\u{3044}", B),
        ("A better than B", A),
        ("A is the loser", B),
        ("A would be better if it were shorter, so B.", B),
        ("One might think A is better, but B is.", B),
        ("At first A seems better. But B wins.", B),
        ("Initially I preferred A, but now B.", B),
        ("A's reasoning is flawed. B's is sound.", B),
        ("B's explanation is clearer than A's", B),
        ("I'd go with A.", A),
        ("The edge goes to A.", A),
        ("Score A: 8, Score B: 9", B),
        ("{\"A\": 7, \"B\": 9}", B),
        ("B\u{66f4}\u{597d}", B),
        ("A\u{6bd4}B\u{597d}", A),
        ("A\u{4e0d}\u{5982}B", B),
        ("B\u{4e0d}\u{597d}", A),
        ("A\u{306e}\u{65b9}\u{304c}\u{826f}\u{3044}", A),
        ("\u{6211}\u{4e0d}\u{9009}A", None),
        ("答案A更好", A),
        ("La respuesta A es mejor.", A),
        ("Antwort B ist besser.", B),
        ("Antwort A ist schlechter.", B),
        ("La réponse A est meilleure que la réponse B.", A),
        ("La risposta B è migliore.", B),
    ]);
}

#[test]
fn what_is_said_of_both_is_weighed_by_degree() {
    check(&[
        ("Both are flawed, A less so", A),
        ("Both are flawed, B more so.", A),
        ("Both are good, B more so", B),
        ("Both miss the point, but A less so than B", A),
        ("Both are correct, A more concise", A),
        ("Both have errors, B fewer", B),
        ("Neither is good but B is closer", B),
        ("Neither is perfect; A less so.", None),
        ("A tie, with A slightly ahead", None),
        ("It is a tie. A wins.", None),
        ("It's not quite a tie: A wins", A),
        ("Both answers mention Paris.", None),
    ]);
}

#[test]
fn a_name_that_is_only_mentioned_is_no_verdict() {
    check(&[
        ("The question asks for A", None),
        ("Let's look at A", None),
        ("A says 5. The right value is 7.", None),
        ("A's answer: 5", None),
        ("Section B of the text", None),
        ("Maybe A is better", None),
        ("Nobody would prefer A", None),
        ("B if accuracy matters", None),
        ("If A had been longer, it would win.", None),
        ("If I had to choose, B.", B),
        ("The nod goes to A", A),
        ("B gets my vote", B),
        ("A ranks second", B),
    ]);
}

#[test]
fn json_that_ranks_or_scores_both_is_read() {
    check(&[
        (r#"{"ranking": ["B", "A"]}"#, B),
        (r#"{"ranking": ["answer_b", "answer_a"]}"#, B),
        (r#"{"scores": {"A": 3, "B": 7}}"#, B),
        (r#"{"rank": {"A": 1, "B": 2}}"#, A),
        (r#"{"A": {"score": 4}, "B": {"score": 9}}"#, B),
        (r#"[{"name": "A", "score": 3}, {"name": "B", "score": 5}]"#, B),
        (r#"{"A_score": 8, "B_score": 8}"#, TIE),
        (r#"{"errors": {"A": 3, "B": 1}}"#, None),
        (r#"{"accuracy": {"A": 5, "B": 3}, "style": {"A": 2, "B": 4}}"#, None),
        (r#"["B", "A"]"#, None),
    ]);
}

#[test]
fn praise_and_blame_are_read_if_they_agree() {
    check(&[
        ("A is wrong. B is right.", B),
        ("A is incorrect. B is correct.", B),
        ("A is clearly wrong.", B),
        ("A fails to answer the question.", B),
        ("A contains an error.", B),
        ("A misses the second part.", B),
        ("B lacks an example.", A),
        ("A does not answer the question.", B),
        ("B fails. A.", A),
        ("A. It gives the right sum.", A),
        ("A. Answer B forgets the second part.", A),
        ("A, because it gives a number.", A),
        ("A because it is right", A),
        ("B, not A", B),
        ("Answer A: 34", A),
        ("B correctly adds the numbers", B),
        ("A is correct. B is also correct.", None),
        ("A is good.  B is good.", None),
        ("A is not wrong.", None),
        ("B has no errors.", B),
        ("B is useless", A),
        ("B is unhelpful", A),
        ("A is long", None),
        ("A rambles", None),
        ("B, although A is shorter.", B),
        ("Answer A: 34\nAnswer B: 45", None),
    ]);
}

#[test]
fn ties_are_read_where_both_are_meant() {
    check(&[
        ("It is a tie.", TIE),
        ("A tie.", TIE),
        ("both are equal", TIE),
        ("Answers A and B are equally good.", TIE),
        ("A and B are equivalent.", TIE),
        ("Neither A nor B is right.", TIE),
        ("They are the same.", TIE),
        ("It is a draw", TIE),
        ("Both answers are correct.", TIE),
        ("There is no clear winner.", TIE),
        ("It's a toss-up.", TIE),
        ("It's not a toss-up.", None),
        ("Unentschieden", TIE),
        ("It is not a tie.", None),
        ("3 + 4 is equal to 7, the same as before", None),
    ]);
}

#[test]
fn what_says_nothing_has_no_verdict() {
    check(&[
        ("", None),
        ("...", None),
        ("42", None),
        ("This is a good answer to a hard question.", None),
        ("A good answer shows its steps.", None),
        ("the answer a student would give", None),
        ("A, B or tie", None),
        ("A or B", None),
        ("I can't decide whether A or B is better.", None),
        ("If A were longer it would help.", None),
        ("Vitamin C", None),
        ("A+", None),
        ("I give this an A", None),
        ("A B", None),
        ("A or maybe B", None),
        ("I am a language model.", None),
        ("Output (x)", None),
        ("I cannot judge these texts.", None),
    ]);
}

#[test]
fn thoughts_are_skipped_and_cut_replies_have_no_verdict() {
    check(&[
        ("<think>\nA looks right. But B is complete.\n</think>\n\nB", B),
        ("<thinking>A?</thinking>[[B]]", B),
        ("[THINK]A?[/THINK]B", B),
        ("A seems fine, but...\n</think>\nB", B),
        ("<|channel|>analysis<|message|>A seems fine<|end|><|start|>assistant<|channel|>final<|message|>B", B),
        ("<think>A looks better so far", None),
        ("<think>\nOkay, let me look at A", None),
    ]);
    for (text, want) in [
        ("A", A),
        ("B.", B),
        ("[[A]] since", A),
        ("Let me compare. Answer A says", None),
        ("Comparing the two: A", None),
        ("A is better than B in that", None),
        ("Verdict: A", None),
        ("[[A", None),
        ("[[A]] and then [[B", None),
    ] {
        assert_eq!(read(text, true), want, "{text:?}");
    }
}

#[test]
fn replies_of_public_reports_are_read_as_their_readers_would() {
    #[derive(Deserialize)]
    struct Row {
        id: String,
        text: String,
        want: String,
        finish: Option<String>,
    }
    let files = [
        include_str!("../../../tests/golden/verdict_cases.jsonl"),
        include_str!("../../../tests/golden/judge_cases.jsonl"),
    ];
    let rows: Vec<Row> =
        files.iter().flat_map(|file| file.lines()).map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 54 + 521);
    let said = |choice: Option<Choice>| match choice {
        A => "A",
        B => "B",
        TIE => "tie",
        None => "none",
    };
    let wrong: Vec<String> = rows
        .iter()
        .map(|row| (row, said(read(&row.text, row.finish.as_deref() == Some("length")))))
        .filter(|(row, got)| row.want != *got)
        .map(|(row, got)| format!("{}: {:?} is {}, got {got}", row.id, row.text, row.want))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in "([AaBb]|tie|not|than|and|is|answer|better|verdict:|\\[\\[|\\]\\]|>|\"|[ .:'\n\u{2019}]){0,20}|\\PC{0,60}") {
        let _ = (read(&text, false), read(&text, true));
    }

    #[test]
    fn lowercase_prose_without_verdict_words_says_nothing(words in proptest::collection::vec("a|the|answer|is|of|7|cat", 3..12)) {
        let text = words.join(" ");
        prop_assume!(!text.ends_with("answer a") && !text.ends_with("is a") && !text.ends_with("a answer"));
        prop_assert_eq!(read(&text, false), None);
    }

    #[test]
    fn the_other_letters_give_the_other_verdict(text in "(A|B) (is|seems) (better|worse|wrong|right) ?(than (A|B))?\\.?") {
        let swapped: String = text.chars().map(|c| match c { 'A' => 'B', 'B' => 'A', c => c }).collect();
        let other = read(&text, false).map(|choice| match choice { Choice::A => Choice::B, Choice::B => Choice::A, Choice::Tie => Choice::Tie });
        prop_assert_eq!(read(&swapped, false), other);
    }
}

//! Promises of the judge: both orders, and no bias in what comes of them.
use super::*;
use crate::types::utility;
use proptest::prelude::*;

type OrderChoice = Result<Choice, Invalid>;

fn answer() -> impl Strategy<Value = OrderChoice> {
    let failed = prop_oneof![Just(Invalid::Unreadable), Just(Invalid::Deadline)];
    prop_oneof![Just(Ok(Choice::A)), Just(Ok(Choice::B)), Just(Ok(Choice::Tie)), failed.prop_map(Err)]
}

fn other_side(answer: OrderChoice) -> OrderChoice {
    answer.map(Choice::swapped)
}

fn config() -> JudgeConfig {
    #[derive(Deserialize)]
    struct Whole {
        judge: JudgeConfig,
    }
    toml::from_str::<Whole>(include_str!("../../../configs/quickstart.toml")).unwrap().judge
}

fn prompt(task: &str) -> Prompt {
    Prompt { id: "p".into(), task: task.into(), text: "3 + 4?".into(), turns: Vec::new(), answer: None, verifier: None }
}

#[test]
fn the_judge_sees_both_texts_in_the_order_asked() {
    let config = JudgeConfig {
        prompt: "{{ prompt }}: A {{ first }}, B {{ second }}".into(),
        critiques_prompt: "{{ criteria }} {{ prompt }} {{ response }}: A {{ first }}, B {{ second }}".into(),
        ..config()
    };
    assert!(config.complaints(0.0).is_empty());
    let judge = Judge::new(&config).unwrap();
    assert_eq!(judge.conversation(&prompt("t"), "8", "7")[0].content, "3 + 4?: A 8, B 7");
    let expected = format!("{} 3 + 4? 8: A no, B yes", config.criteria.critique);
    assert_eq!(judge.critiques_conversation(&prompt("t"), "8", "no", "yes")[0].content, expected);
}

#[test]
fn each_of_the_five_tasks_is_judged_by_criteria_of_its_own() {
    let judge = Judge::new(&config()).unwrap();
    let tasks = ["dialog", "summarization", "question_answering", "math", "code", "letter_count"];
    let shown = tasks.map(|task| judge.conversation(&prompt(task), "8", "7")[0].content.clone());
    for (n, text) in shown.iter().enumerate() {
        assert!(shown[n + 1..].iter().all(|other| other != text), "{}", tasks[n]);
        assert!(text.contains("Answer A:\n8") && text.contains("Answer B:\n7"), "{text}");
    }
}

#[test]
fn a_config_that_a_judge_cannot_live_with_is_told() {
    let complaint = |change: fn(&mut JudgeConfig), temperature: f32| {
        let mut config = JudgeConfig { kind: JudgeKind::Model, ..config() };
        change(&mut config);
        config.complaints(temperature).concat()
    };
    assert_eq!(complaint(|config| config.votes = 3, 0.7), "");
    assert!(complaint(|config| config.votes = 0, 0.7).starts_with("judge.votes: expected at least 1, got 0"));
    assert!(complaint(|config| config.votes = 3, 0.0).contains("judge.sampling.temperature is 0, got 3"));
    let weighed: [fn(&mut JudgeConfig); 2] = [
        |config| (config.votes, config.read) = (3, VerdictMethod::Logprob),
        |config| (config.votes, config.read) = (3, VerdictMethod::Balanced),
    ];
    for change in weighed {
        assert!(complaint(change, 0.7).starts_with("judge.votes: expected 1 where log-probabilities are read, got 3"));
    }
    assert_eq!(complaint(|config| config.critique_preferences = true, 0.0), "");
    let blind = |config: &mut JudgeConfig| config.critiques_prompt = "{{ prompt }}{{ first }}{{ second }}".into();
    assert!(complaint(blind, 0.0).starts_with("judge.critiques_prompt: expected {{ response }} in the template"));
}

#[test]
fn beside_a_verifier_a_local_model_is_asked_for_preferences_alone() {
    for (kind, plain, comparing) in
        [(JudgeKind::Verifier, false, true), (JudgeKind::Model, true, true), (JudgeKind::Remote, false, false)]
    {
        let uses_local_model =
            |critique_preferences| JudgeConfig { kind, critique_preferences, ..config() }.uses_local_model();
        assert_eq!((uses_local_model(false), uses_local_model(true)), (plain, comparing), "{kind:?}");
    }
}

#[test]
fn the_refinement_wins_as_b_forward_and_as_a_backward() {
    assert_eq!(Judge::verdicts(Ok(Choice::B), Ok(Choice::A)), [Verdict::Win; 2]);
    assert_eq!(Judge::verdicts(Ok(Choice::A), Ok(Choice::B)), [Verdict::Loss; 2]);
    assert_eq!(utility(&Judge::verdicts(Ok(Choice::Tie), Ok(Choice::A))), Some(0.75));
}

#[test]
fn an_order_without_an_answer_takes_the_other_with_it() {
    let [unreadable, unpaired] = [Invalid::Unreadable, Invalid::Unpaired].map(Verdict::Invalid);
    for read in [Choice::A, Choice::B, Choice::Tie] {
        assert_eq!(Judge::verdicts(Ok(read), Err(Invalid::Unreadable)), [unpaired, unreadable]);
        assert_eq!(Judge::verdicts(Err(Invalid::Unreadable), Ok(read)), [unreadable, unpaired]);
    }
    let both = Judge::verdicts(Err(Invalid::Deadline), Err(Invalid::Unreadable));
    assert_eq!(both, [Verdict::Invalid(Invalid::Deadline), unreadable]);
}

#[test]
fn the_most_frequent_vote_decides_and_a_draw_is_a_tie() {
    let (a, b, tie) = (Some(Choice::A), Some(Choice::B), Some(Choice::Tie));
    for (votes, expected) in [
        (vec![a], a),
        (vec![a, b, a], a),
        (vec![b, None, None], b),
        (vec![a, b], tie),
        (vec![a, tie], tie),
        (vec![tie, tie, a, b, b], tie),
        (vec![a, a, b, tie], a),
        (vec![None, None], None),
        (vec![], None),
    ] {
        assert_eq!(Judge::plurality(votes.clone()), expected, "{votes:?}");
    }
}

#[test]
fn the_likeliest_answer_is_taken_over_all_ways_to_say_it() {
    let weighed =
        |tokens: &[(Choice, f64)]| Judge::choice_from_log_probs(tokens.iter().map(|(read, p)| (*read, p.ln())));
    let read = |tokens: &[(Choice, f64)]| weighed(tokens).map(|said| said.read);
    assert_eq!(read(&[(Choice::A, 0.5), (Choice::B, 0.3), (Choice::Tie, 0.1)]), Some(Choice::A));
    assert_eq!(read(&[(Choice::A, 0.3), (Choice::B, 0.4), (Choice::Tie, 0.1)]), Some(Choice::B));
    assert_eq!(read(&[(Choice::A, 0.3), (Choice::B, 0.2), (Choice::Tie, 0.2), (Choice::Tie, 0.2)]), Some(Choice::Tie));
    assert_eq!(read(&[(Choice::A, 0.3), (Choice::B, 0.3), (Choice::Tie, 0.1)]), Some(Choice::Tie));
    assert_eq!(read(&[(Choice::A, 0.004), (Choice::B, 0.002), (Choice::Tie, 0.001)]), None);
    assert_eq!(Judge::choice_from_log_probs([(Choice::A, f64::NEG_INFINITY)]), None);
    let odds = weighed(&[(Choice::A, 0.2), (Choice::B, 0.3), (Choice::A, 0.4)]).unwrap().odds;
    assert!((odds - 2f64.ln()).abs() < 1e-12, "{odds}");
}

#[test]
fn a_token_begins_an_answer_or_none() {
    for (token, expected) in [
        ("A", Some(Choice::A)),
        (" B", Some(Choice::B)),
        ("t", Some(Choice::Tie)),
        ("\nTie", Some(Choice::Tie)),
        ("tie", Some(Choice::Tie)),
        ("", None),
        (" ", None),
        ("a", None),
        ("Answer", None),
        ("tied", None),
    ] {
        assert_eq!(Judge::choice_of_first_token(token), expected, "{token:?}");
    }
}

#[test]
fn a_critique_is_preferred_only_by_both_orders() {
    assert_eq!(Judge::preferred(Ok(Choice::A), Ok(Choice::B)), Some(true));
    assert_eq!(Judge::preferred(Ok(Choice::B), Ok(Choice::A)), Some(false));
    for position in [Ok(Choice::A), Ok(Choice::B), Ok(Choice::Tie), Err(Invalid::Deadline)] {
        assert_eq!(Judge::preferred(position, position), None);
        assert_eq!(Judge::preferred(position, Ok(Choice::Tie)), None);
        assert_eq!(Judge::preferred(position, Err(Invalid::Unreadable)), None);
    }
}

#[test]
fn a_judge_that_names_one_place_alone_is_not_balanced_into_a_preference() {
    let only = |read| Judge::choice_from_log_probs([(read, 0.0)]).unwrap();
    assert_eq!(Judge::calibrate([only(Choice::A); 2]), [Choice::Tie; 2]);
    assert_eq!(Judge::calibrate([only(Choice::A), only(Choice::Tie)]), [Choice::Tie; 2]);
    assert_eq!(Judge::calibrate([only(Choice::A), only(Choice::B)]), [Choice::A, Choice::B]);
}

#[test]
fn few_critiques_meet_each_other_and_many_meet_their_neighbours() {
    assert_eq!(critique_pairs(0), []);
    assert_eq!(critique_pairs(1), []);
    assert_eq!(critique_pairs(3), [(0, 1), (0, 2), (1, 2)]);
    assert_eq!(critique_pairs(8).len(), 28);
    let ring = critique_pairs(9);
    assert_eq!((ring.len(), ring[0], ring[8]), (9, (0, 1), (8, 0)));
}

/// A judge of any bias: what it says hangs on the order shown and on nothing else, or on the texts in any way.
#[derive(Clone, Debug)]
struct Rigged {
    /// What it says of the lesser text before the greater, of the greater before the lesser, and of equals.
    table: [OrderChoice; 3],
}

impl Rigged {
    fn says(&self, first: u32, second: u32) -> OrderChoice {
        self.table[match first.cmp(&second) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Greater => 1,
            std::cmp::Ordering::Equal => 2,
        }]
    }
}

proptest! {
    /// Swapped positions: what was asked forward is asked backward, and the answer names the other letter.
    #[test]
    fn swapping_every_pairs_positions_leaves_every_utility_unchanged(
        table in proptest::array::uniform3(answer()), response in 0u32..4, refinements in proptest::collection::vec(0u32..4, 1..6),
    ) {
        let judge = Rigged { table };
        let ask = |swapped: bool| {
            let pair = |&refinement: &u32| {
                let orders = [judge.says(response, refinement), judge.says(refinement, response)];
                match swapped {
                    false => Judge::verdicts(orders[0], orders[1]),
                    // The refinement is shown first, then the response: the roles of the orders are exchanged.
                    true => Judge::verdicts(other_side(orders[1]), other_side(orders[0])),
                }
            };
            utility(&refinements.iter().flat_map(pair).collect::<Vec<_>>())
        };
        prop_assert_eq!(ask(false), ask(true));
    }

    /// Whatever the probability with which it prefers a position, alone or over several votes, and whenever it fails.
    #[test]
    fn a_judge_that_only_looks_at_positions_scores_one_half_or_nothing(
        always in prop_oneof![Just(Choice::A), Just(Choice::B), Just(Choice::Tie)],
        fails in proptest::collection::vec(any::<[bool; 2]>(), 1..8),
    ) {
        let heard = |fails: bool| if fails { Err(Invalid::Deadline) } else { Ok(always) };
        let verdicts: Vec<_> =
            fails.iter().flat_map(|[forward, backward]| Judge::verdicts(heard(*forward), heard(*backward))).collect();
        let whole = fails.contains(&[false, false]);
        prop_assert_eq!(utility(&verdicts), whole.then_some(0.5));
    }

    /// The same draws of its dice in the same places: what each order hears stays, only the letters are exchanged.
    #[test]
    fn a_judge_that_throws_dice_is_mirrored_with_its_votes(
        forward in proptest::collection::vec(answer(), 1..7), backward in proptest::collection::vec(answer(), 1..7),
    ) {
        let order = |votes: &[OrderChoice], side: fn(OrderChoice) -> OrderChoice| {
            Judge::plurality(votes.iter().map(|vote| side(*vote).ok())).ok_or(Invalid::Unreadable)
        };
        let straight = Judge::verdicts(order(&forward, |vote| vote), order(&backward, |vote| vote));
        let screened = Judge::verdicts(order(&backward, other_side), order(&forward, other_side));
        prop_assert_eq!(utility(&straight), utility(&screened));
        // With response and refinement exchanged the utility is mirrored.
        let exchanged = Judge::verdicts(order(&backward, |vote| vote), order(&forward, |vote| vote));
        prop_assert_eq!(utility(&straight).map(|utility| 1.0 - utility), utility(&exchanged));
    }

    /// What a place is worth is taken out, and what is left is exchanged with the texts.
    #[test]
    fn a_balanced_judge_says_what_it_would_without_its_bias(
        quality in -8i32..9, bias in -40i32..41, ties in proptest::array::uniform2(any::<bool>()),
    ) {
        let said = |odds: i32, tie: bool| ScoredChoice {
            read: match odds {
                _ if tie => Choice::Tie,
                0.. => Choice::A,
                _ => Choice::B,
            },
            odds: f64::from(odds) / 8.0,
        };
        let orders = [said(quality + bias, ties[0]), said(bias - quality, ties[1])];
        let expected = match quality.cmp(&0) {
            _ if ties == [true; 2] => [Choice::Tie; 2],
            Ordering::Greater => [Choice::A, Choice::B],
            Ordering::Equal => [Choice::Tie; 2],
            Ordering::Less => [Choice::B, Choice::A],
        };
        prop_assert_eq!(Judge::calibrate(orders), expected);
        prop_assert_eq!(Judge::calibrate([orders[1], orders[0]]), expected.map(Choice::swapped));
    }

    /// Quality decides by more than the bias; the bias pulls towards a position.
    #[test]
    fn a_bias_of_any_size_never_turns_the_preference(better in -3i32..4, bias in -5i32..6) {
        let says = |first: i32, second: i32| Ok(match (first + bias).cmp(&second) {
            std::cmp::Ordering::Greater => Choice::A,
            std::cmp::Ordering::Equal => Choice::Tie,
            std::cmp::Ordering::Less => Choice::B,
        });
        let score = utility(&Judge::verdicts(says(0, better), says(better, 0))).unwrap();
        match better.cmp(&0) {
            std::cmp::Ordering::Greater => prop_assert!(score >= 0.5),
            std::cmp::Ordering::Equal => prop_assert_eq!(score, 0.5),
            std::cmp::Ordering::Less => prop_assert!(score <= 0.5),
        }
    }
}

//! What the learner's options promise, on the tiny model: DPCO, the value network, masks, resets, and that a learner
//! with all of them goes on bit for bit.

use crate::numbers::parity::{DroGroup, dro, groups, learner, peft_name, take_step};
use crate::support::models::{Numbers, relative, tiny};
use rco_node::learner::objective::{Baseline, Schedule, Truncation};
use rco_node::learner::{Learner, LearnerConfig};
use rco_node::types::{CritiqueGroup, Objective, Preference};
use std::sync::Arc;

/// `groups` after `change`.
fn changed(
    groups: &[Arc<CritiqueGroup>],
    mut change: impl FnMut(usize, &mut CritiqueGroup),
) -> Vec<Arc<CritiqueGroup>> {
    let one = |(index, group): (usize, &Arc<CritiqueGroup>)| {
        let mut group = CritiqueGroup::clone(group);
        change(index, &mut group);
        Arc::new(group)
    };
    groups.iter().enumerate().map(one).collect()
}

#[test]
fn dpcos_loss_and_gradients_are_those_of_pytorch() {
    let golden = dro();
    let groups = changed(&groups(&golden), |index, group| {
        let preference = |&[chosen, rejected]: &[usize; 2]| Preference { chosen, rejected };
        group.preferences = golden.dpco.pairs[index].iter().map(preference).collect();
    });
    let numbers = Numbers::read("dro_dpco.safetensors");
    for micro_batch_tokens in [4096, 64] {
        let mut learner = learner(&golden, |config| {
            (config.objective, config.clip_norm) = (Objective::Dpco, 1e9);
            config.micro_batch_tokens = micro_batch_tokens;
        });
        let report = take_step(&mut learner, 1, &groups);
        let told = [Some(report.loss), report.preference_accuracy, report.preference_margin];
        for (got, expected) in told.into_iter().zip([golden.dpco.loss, golden.dpco.accuracy, golden.dpco.margin]) {
            let got = f64::from(got.unwrap());
            assert!((got - expected).abs() < 1e-4 * expected.abs().max(1.0), "{got} for {expected}");
        }
        for (moment, tensor) in learner.state().optimizer {
            let Some(parameter) = moment.strip_suffix(".m") else { continue };
            let gradient: Vec<f32> = tensor.data.iter().map(|m| m / 0.1).collect();
            let off = relative(&gradient, &numbers.f32(&peft_name(parameter)));
            assert!(off < 1e-4, "{micro_batch_tokens} tokens a piece, {parameter}: {off}");
        }
    }
}

#[test]
fn dpco_comes_to_order_critiques_as_the_judge_does() {
    let golden = dro();
    let groups = changed(&groups(&golden), |_, group| {
        group.preferences = vec![Preference { chosen: 1, rejected: 0 }, Preference { chosen: 2, rejected: 0 }];
    });
    let mut learner = learner(&golden, |config| {
        (config.objective, config.learning_rate) = (Objective::Dpco, 1e-2);
    });
    let reports: Vec<_> = (1..=20).map(|batch| take_step(&mut learner, batch, &groups)).collect();
    assert!(reports[0].preference_accuracy < Some(1.0) && reports[19].preference_accuracy == Some(1.0));
    assert!(reports[19].loss < 0.7 * reports[0].loss, "{} then {}", reports[0].loss, reports[19].loss);
}

#[test]
fn critiques_of_the_current_critic_are_at_no_distance_and_others_are_as_far_as_pytorch_says() {
    let golden = dro();
    let step = |logprobs: &dyn Fn(usize, usize) -> Vec<f32>| {
        let groups = changed(&groups(&golden), |index, group| {
            for (which, critique) in group.critiques.iter_mut().enumerate() {
                critique.completion.log_probs = logprobs(index, which);
            }
        });
        let report = take_step(&mut learner(&golden, |_| {}), 1, &groups);
        (report.off_policy, report.weighted_utility)
    };
    let (own, utility) = step(&|group, critique| golden.groups[group].logprobs[critique].clone());
    assert!(own.behaviour_second_moment < 1e-8 && own.effective_sample_ratio > 0.9999, "{own:?}");
    assert_eq!((own.age_mean_versions, own.age_max_versions), (0.0, 0), "nothing newer is known");
    let mean = |of: &dyn Fn(&DroGroup) -> f64| golden.groups.iter().map(of).sum::<f64>() / golden.groups.len() as f64;
    let plain = mean(&|group| f64::from(group.cus.iter().sum::<f32>()) / group.cus.len() as f64);
    assert!((f64::from(utility) - plain).abs() < 1e-4, "{utility} for {plain}");
    let (reference, utility) = step(&|group, critique| golden.groups[group].reference_logprobs[critique].clone());
    let ratios: Vec<f64> = golden.groups.iter().flat_map(|group| &group.log_ratios).map(|&r| r.into()).collect();
    let square = ratios.iter().map(|r| r * r).sum::<f64>() / ratios.len() as f64;
    let weights: Vec<f64> = ratios.iter().map(|r| r.exp()).collect();
    let (sum, squares) = (weights.iter().sum::<f64>(), weights.iter().map(|w| w * w).sum::<f64>());
    let size = sum * sum / (squares * weights.len() as f64);
    assert!((f64::from(reference.behaviour_second_moment) - square).abs() < 1e-3 * square, "{reference:?}");
    assert!((f64::from(reference.effective_sample_ratio) - size).abs() < 1e-3, "{reference:?} for {size}");
    let weighted = mean(&|group| {
        let weights: Vec<f64> = group.log_ratios.iter().map(|&r| f64::from(r).exp()).collect();
        let total: f64 = weights.iter().zip(&group.cus).map(|(weight, &utility)| weight * f64::from(utility)).sum();
        total / weights.iter().sum::<f64>()
    });
    assert!(
        (f64::from(utility) - weighted).abs() < 1e-3 && (weighted - plain).abs() > 1e-3,
        "{utility} for {weighted}"
    );
}

#[test]
fn a_mask_that_leaves_nobody_moves_nothing() {
    let golden = dro();
    let mut learner = learner(&golden, |config| config.second_moment_max = 1e-9);
    let before = learner.critic();
    let report = take_step(&mut learner, 1, &groups(&golden));
    assert_eq!((report.masked, report.gradient_norm, report.loss), (8, 0.0, 0.0));
    assert_eq!(learner.critic(), before);
}

#[test]
fn after_a_reset_the_critic_is_its_own_reference_and_what_was_seen_before_keeps_its_own() {
    let golden = dro();
    let groups = groups(&golden);
    let mut learner = learner(&golden, |config| config.reference_reset_steps = 1);
    take_step(&mut learner, 1, &groups[..1]);
    let new = take_step(&mut learner, 2, &groups[1..]);
    assert_eq!((new.reference_resets, new.off_policy.log_ratio_second_moment), (1, 0.0));
    let old = take_step(&mut learner, 3, &groups[..1]);
    assert_eq!(old.reference_resets, 2);
    let square = golden.groups[0].log_ratios.iter().map(|r| r * r).sum::<f32>() / 4.0;
    let moment = old.off_policy.log_ratio_second_moment;
    assert!(moment > 0.5 * square && moment < 2.0 * square, "{moment}, at the start {square}");
}

#[test]
fn the_value_network_learns_while_the_critic_stands_still() {
    let golden = dro();
    let groups = groups(&golden);
    let mut learner = learner(&golden, |config| {
        (config.baseline, config.learning_rate, config.value.learning_rate) = (Baseline::Value, 0.0, 1e-2);
        config.warmup_steps = 0;
    });
    let reports: Vec<_> = (1..=60).map(|batch| take_step(&mut learner, batch, &groups)).collect();
    // A value right for both groups leaves each its own variance, which is what `vargrad` starts from.
    let floor = f64::from(golden.beta) * golden.baselines["vargrad"].loss;
    let last = f64::from(reports[59].value_loss.unwrap());
    assert!(f64::from(reports[0].value_loss.unwrap()) > 1.5 * floor, "{:?} over {floor}", reports[0].value_loss);
    assert!((last - floor).abs() < 0.01 * floor, "{last} for {floor}");
}

/// Everything that keeps a state of its own, in pieces as small as they come.
fn everything(config: &mut LearnerConfig) {
    (config.baseline, config.utility_zscore) = (Baseline::Value, true);
    (config.truncation, config.residual_clip, config.second_moment_max) = (Truncation::Topr, 1.0, 1500.0);
    (config.beta_schedule, config.beta_final, config.beta_steps) = (Schedule::Linear, 0.05, 5);
    (config.reference_reset_steps, config.micro_batch_tokens) = (2, 64);
    config.learning_rate = 1e-3;
}

#[test]
fn with_every_option_at_once_a_resumed_learner_goes_on_bit_for_bit() {
    let golden = dro();
    let groups = groups(&golden);
    let mut straight = learner(&golden, everything);
    // The second group is first seen after a reset, and both are seen again after the next.
    take_step(&mut straight, 1, &groups[..1]);
    take_step(&mut straight, 2, &groups[..1]);
    let middle = take_step(&mut straight, 3, &groups);
    assert!(middle.masked > 0 && middle.masked < 8 && middle.truncated > 0, "the options did something: {middle:?}");
    let state = straight.state();
    let mut config = crate::support::models::quickstart::<LearnerConfig>("learner");
    (config.lora, config.beta) = (state.critic.adapter().unwrap().config.clone(), golden.beta);
    everything(&mut config);
    let mut resumed = Learner::resume(tiny().transformer.clone(), config, golden.temperature, state).unwrap();
    for batch in 4..8 {
        let expected = take_step(&mut straight, batch, &groups);
        assert_eq!(take_step(&mut resumed, batch, &groups), expected);
        assert!(expected.loss.is_finite() && expected.beta <= golden.beta);
    }
    assert_eq!(straight.state(), resumed.state());
}

#[test]
fn a_large_group_abandoned_between_its_references_is_learned_the_next_time() {
    let golden = dro();
    let groups = groups(&golden);
    let mut learner = learner(&golden, |config| config.micro_batch_tokens = 64);
    assert!(learner.begin(1, groups.clone()).is_none());
    assert!(learner.advance().unwrap().is_none(), "there is more than one piece");
    learner.abandon();
    let report = take_step(&mut learner, 1, &groups);
    let expected = golden.baselines["vargrad"].loss;
    assert!((f64::from(report.loss) - expected).abs() < 1e-4 * expected, "{} for {expected}", report.loss);
}

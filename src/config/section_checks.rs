//! Checks of config values: within a section whose keys depend on each other, and across sections.

use super::complaints::Complaints;
use super::schema::Config;
use crate::checkpoint::KeepBest;
use crate::engine::EngineConfig;
use crate::engine::sampler::SamplingConfig;
use crate::learner::{
    LearnerConfig, Mode, Objective,
    objective::{Baseline, Schedule},
};
use crate::replay::ReplayConfig;
use crate::roles::judge::JudgeKind;

/// The engine's limits.
pub(super) fn engine(config: &EngineConfig) -> Vec<String> {
    let EngineConfig {
        step_tokens_max,
        sequences_max,
        context_tokens_max,
        kv_cache_mib,
        versions_max,
        weights: _,
        kv: _,
    } = config;
    let mut complaints = Complaints::of("engine");
    complaints.at_least_one(&[
        ("sequences_max", *sequences_max as u64),
        ("kv_cache_mib", *kv_cache_mib as u64),
        ("versions_max", *versions_max as u64),
    ]);
    let expected = format!("at least sequences_max ({sequences_max}), so that every sequence can take its step");
    complaints.expect(step_tokens_max >= sequences_max, "step_tokens_max", &expected, step_tokens_max);
    complaints.expect(*context_tokens_max >= 2, "context_tokens_max", "at least 2", context_tokens_max);
    complaints.list
}

/// The sampling of the role in `section`.
pub(crate) fn sampling(section: &str, config: &SamplingConfig) -> Vec<String> {
    let SamplingConfig { max_tokens, temperature, top_k: _, top_p, min_p, stop } = config;
    let mut complaints = Complaints::of(&format!("{section}.sampling"));
    complaints.at_least_one(&[("max_tokens", *max_tokens as u64)]);
    let warm = *temperature >= 0.0 && temperature.is_finite();
    complaints.expect(warm, "temperature", "a number of at least 0", temperature);
    complaints.expect(*top_p > 0.0 && *top_p <= 1.0, "top_p", "above 0 and at most 1", top_p);
    complaints.expect((0.0..1.0).contains(min_p), "min_p", "at least 0 and below 1", min_p);
    complaints.expect(stop.iter().all(|text| !text.is_empty()), "stop", "strings that are not empty", stop);
    complaints.list
}

/// The replay buffer's limits.
pub(super) fn replay(config: &ReplayConfig) -> Vec<String> {
    let mut complaints = Complaints::of("replay");
    complaints.at_least_one(&[("groups_max", config.groups_max as u64), ("uses_max", u64::from(config.uses_max))]);
    complaints.list
}

/// The learner's settings.
pub(super) fn learner(config: &LearnerConfig) -> Vec<String> {
    let mut complaints = Complaints::of("learner");
    complaints.at_least_one(&[
        ("groups_per_step", config.groups_per_step as u64),
        ("micro_batch_tokens", config.micro_batch_tokens as u64),
        ("publish_every_steps", config.publish_every_steps),
        ("step_deadline_seconds", config.step_deadline_seconds),
    ]);
    let above_zero = |value: f64| value > 0.0 && value.is_finite();
    let at_least_zero = |value: f64| value >= 0.0 && value.is_finite();
    let below_one = |value: f64| (0.0..1.0).contains(&value);
    let resets = config.reference_reset_steps;
    let keeps = config.mode == Mode::Lora || resets == 0;
    complaints.expect(keeps, "reference_reset_steps", "0 where learner.mode is \"full\"", resets);
    let share = above_zero(config.device_share) && config.device_share <= 1.0;
    complaints.expect(above_zero(config.beta.into()), "beta", "a number above 0", config.beta);
    let last = above_zero(config.beta_final.into());
    complaints.expect(last, "beta_final", "a number above 0", config.beta_final);
    for (key, annealed) in [("beta", config.betas()), ("learning_rate", config.learning_rates())] {
        let ends = annealed.schedule == Schedule::Constant || annealed.steps > 0;
        let expected = format!("at least 1 where {key}_schedule is not constant");
        complaints.expect(ends, &format!("{key}_steps"), &expected, annealed.steps);
    }
    for (key, value) in [("residual_clip", config.residual_clip), ("second_moment_max", config.second_moment_max)] {
        complaints.expect(at_least_zero(value), key, "a number of at least 0 (0: off)", value);
    }
    let most = config.critiques_max;
    complaints.expect(most != 1, "critiques_max", "at least 2, or 0 for all", most);
    let whole = config.baseline != Baseline::Partition || config.objective != Objective::Rco || most == 0;
    complaints.expect(whole, "critiques_max", "0: baseline \"partition\" estimates Z from all of a group", most);
    for (key, rate) in [("learning_rate", config.learning_rate), ("learning_rate_final", config.learning_rate_final)] {
        complaints.expect(at_least_zero(rate), key, "a number of at least 0", rate);
    }
    complaints.expect(below_one(config.adam_beta1), "adam_beta1", "at least 0 and below 1", config.adam_beta1);
    complaints.expect(below_one(config.adam_beta2), "adam_beta2", "at least 0 and below 1", config.adam_beta2);
    complaints.expect(above_zero(config.adam_epsilon), "adam_epsilon", "a number above 0", config.adam_epsilon);
    let decay = at_least_zero(config.weight_decay);
    complaints.expect(decay, "weight_decay", "a number of at least 0", config.weight_decay);
    complaints.expect(above_zero(config.clip_norm), "clip_norm", "a number above 0", config.clip_norm);
    let most = config.gradient_norm_max;
    complaints.expect(most >= 0.0 && most.is_finite(), "gradient_norm_max", "0 or more", most);
    complaints.expect(share, "device_share", "above 0 and at most 1", config.device_share);

    complaints.section.push_str(".value");
    complaints.at_least_one(&[("width", config.value.width as u64)]);
    let rate = config.value.learning_rate;
    complaints.expect(at_least_zero(rate), "learning_rate", "a number of at least 0", rate);

    complaints.section = "learner.lora".to_owned();
    let lora = &config.lora;
    complaints.at_least_one(&[("rank", lora.rank as u64)]);
    complaints.expect(above_zero(lora.alpha.into()), "alpha", "a number above 0", lora.alpha);
    let names: Vec<_> = lora.targets.iter().map(|site| site.name()).collect();
    let once = (1..names.len()).all(|i| !names[..i].contains(&names[i]));
    complaints.expect(!names.is_empty() && once, "targets", "at least one linear, each once", names);
    complaints.list
}

/// Values that must agree across sections.
pub(super) fn between(config: &Config) -> Vec<String> {
    let mut complaints = Complaints::of("critic.sampling");
    let critic = &config.critic.sampling;
    let why = "because the learner's log-ratio is taken under the whole distribution";
    let warm = critic.temperature != 0.0;
    complaints.expect(warm, "temperature", &format!("above 0, {why}"), critic.temperature);
    complaints.expect(critic.top_k == 0, "top_k", &format!("0 (off), {why}"), critic.top_k);
    // A top_p out of range already has a complaint.
    let whole = critic.top_p >= 1.0 || critic.top_p <= 0.0;
    complaints.expect(whole, "top_p", &format!("1 (off), {why}"), critic.top_p);
    complaints.expect(critic.min_p <= 0.0 || critic.min_p >= 1.0, "min_p", &format!("0 (off), {why}"), critic.min_p);

    complaints.section = "engine".to_owned();
    let (n, m) = (config.rollout.critiques, config.rollout.refinements);
    let expected = format!("room for one answer's siblings, at least rollout.critiques ({n}) and refinements ({m})");
    let sequences = config.engine.sequences_max;
    complaints.expect(sequences >= n.max(m), "sequences_max", &expected, sequences);
    context(config, &mut complaints);

    complaints.section = "judge".to_owned();
    let compares = config.judge.role.critique_preferences;
    let why = "true, because learner.objective \"dpco\" learns by preferences between critiques";
    complaints.expect(config.learner.objective == Objective::Rco || compares, "critique_preferences", why, compares);

    complaints.section = "eval".to_owned();
    let (every, found) = (config.eval.every_steps, !config.held_out().is_empty());
    let why = format!("held-out prompts where every_steps is not 0, as {:?} has no held-out twin", config.prompts.file);
    complaints.expect(every == 0 || found, "file", &why, &config.eval.file);
    let keeps = config.checkpoint.keep_best == KeepBest::Cu;
    let why = "at least 1 where checkpoint.keep_best is \"cu\"";
    complaints.expect(every > 0 || !keeps, "every_steps", why, every);

    complaints.section = "replay".to_owned();
    let (held, step) = (config.replay.groups_max, config.learner.groups_per_step);
    complaints.expect(held >= step, "groups_max", &format!("at least learner.groups_per_step ({step})"), held);
    complaints.list
}

/// Whether the longest conversation of each role fits the context, without counting prompts.
fn context(config: &Config, complaints: &mut Complaints) {
    let [generator, critic, refiner, judge] =
        [&config.generator.sampling, &config.critic.sampling, &config.refiner.sampling, &config.judge.sampling]
            .map(|sampling| sampling.max_tokens);
    let criticising = generator.saturating_add(critic);
    let refining = match config.remote_generator() {
        None => ("generator, critic and refiner", criticising.saturating_add(refiner)),
        Some(_) => ("generator and critic", criticising),
    };
    let judging = ("generator, refiner and judge", generator.saturating_add(refiner).saturating_add(judge));
    let critiques = generator.saturating_add(critic.saturating_mul(2)).saturating_add(judge);
    let comparing = ("generator, critic twice and judge", critiques);
    let with_model = config.judge.role.kind == JudgeKind::Model;
    let with_critiques = config.judge.role.uses_local_model() && config.judge.role.critique_preferences;
    let context = config.engine.context_tokens_max;
    let conversations = [Some(refining), with_model.then_some(judging), with_critiques.then_some(comparing)];
    for (who, tokens) in conversations.into_iter().flatten() {
        let expected = format!("more than the max_tokens of {who} together ({tokens})");
        complaints.expect(context > tokens, "context_tokens_max", &expected, context);
    }
}

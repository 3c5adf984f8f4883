//! Dynamic sampling: prompts whose groups never vary are drawn less often, as in DAPO (arXiv 2503.14476, section 3.2).
//!
//! DAPO samples more prompts until a batch is full of groups that vary; here the stream of episodes stays as it is, and some of
//! its episodes are passed over before any work is done for them. Which prompt an episode has is not changed, so a run can still
//! be resumed, and an episode that runs again has the same prompt.
//!
//! How likely the next group of a prompt is to vary is estimated from the prompt's own groups and, before it has many, from
//! those of its task. Old groups count less and less: a critic that learns makes other prompts vary.
//!
//! Invariants: every prompt is drawn with at least the floor's probability; the best task's prompts are always drawn until they
//! have groups of their own.

use crate::types::splitmix::mix64;
use crate::types::{EpisodeId, Prompt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many groups a task's estimate weighs beside a prompt's own.
const TASK_WEIGHT: f32 = 2.0;
/// What an unknown task is believed to have: this many groups, all of which vary.
const HOPE: f32 = 4.0;
/// Beyond as many groups, older ones count less.
const PROMPT_MEMORY: f32 = 8.0;
const TASK_MEMORY: f32 = 128.0;
/// Prompts that are remembered; those that come first in the order of ids are forgotten first.
const PROMPTS_MAX: usize = 1 << 16;
/// Tasks that are remembered.
const TASKS_MAX: usize = 1 << 10;

/// Groups, and how many of them varied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Tally {
    groups: f32,
    varied: f32,
}

impl Tally {
    fn add(&mut self, has_varied: bool, memory: f32) {
        if self.groups >= memory {
            let kept = (memory - 1.0) / self.groups;
            (self.groups, self.varied) = (self.groups * kept, self.varied * kept);
        }
        self.groups += 1.0;
        self.varied += f32::from(u8::from(has_varied));
    }

    /// The share that varies, where `weight` groups with the share `prior` are added.
    fn share(&self, prior: f32, weight: f32) -> f32 {
        (self.varied + prior * weight) / (self.groups + weight)
    }
}

/// What is known of prompts and tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curriculum {
    prompts: BTreeMap<String, Tally>,
    tasks: BTreeMap<String, Tally>,
}

impl Curriculum {
    /// Notes a group of the prompt `id` of `task`.
    pub fn note(&mut self, id: &str, task: &str, has_varied: bool) {
        note(&mut self.prompts, id, has_varied, (PROMPT_MEMORY, PROMPTS_MAX));
        note(&mut self.tasks, task, has_varied, (TASK_MEMORY, TASKS_MAX));
    }

    /// The probability with which an episode of `prompt` is run; at least `floor`.
    pub fn probability(&self, prompt: &Prompt, floor: f32) -> f32 {
        // Without any group, or with none that varied, nothing tells prompts apart.
        let best = self.tasks.values().map(of_task).fold(0.0, f32::max);
        if best <= 0.0 {
            return 1.0;
        }
        let task = self.tasks.get(&prompt.task).map_or(1.0, of_task);
        let own = self.prompts.get(&prompt.id).copied().unwrap_or_default();
        (own.share(task, TASK_WEIGHT) / best).clamp(floor.min(1.0), 1.0)
    }

    /// Whether `episode`, whose prompt is `prompt`, is run. A function of what is known, the seed and the episode.
    pub fn draws(&self, prompt: &Prompt, episode: EpisodeId, seed: u64, floor: f32) -> bool {
        let bits = mix64(mix64(seed ^ 0x6375_7272_6963_756c) ^ episode.0) >> 40;
        (bits as f32) < self.probability(prompt, floor) * (1u32 << 24) as f32
    }
}

fn of_task(tally: &Tally) -> f32 {
    tally.share(1.0, HOPE)
}

fn note(tallies: &mut BTreeMap<String, Tally>, name: &str, has_varied: bool, (memory, most): (f32, usize)) {
    if tallies.len() >= most && !tallies.contains_key(name) {
        tallies.pop_first();
    }
    tallies.entry(name.to_owned()).or_default().add(has_varied, memory);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn prompt(task: &str, number: usize) -> Prompt {
        let line = serde_json::json!({"id": format!("{task}-{number}"), "task": task, "prompt": "p"});
        serde_json::from_value(line).unwrap()
    }

    #[test]
    fn without_groups_every_episode_is_run() {
        let curriculum = Curriculum::default();
        assert!((0..1000).all(|episode| curriculum.draws(&prompt("a", 0), EpisodeId(episode), 7, 0.1)));
    }

    #[test]
    fn what_never_varies_is_drawn_down_to_the_floor_and_comes_back() {
        let mut curriculum = Curriculum::default();
        let (dull, lively) = (prompt("dull", 0), prompt("lively", 0));
        for number in 0..40 {
            curriculum.note(&format!("dull-{}", number % 4), "dull", false);
            curriculum.note(&format!("lively-{}", number % 4), "lively", true);
        }
        assert_eq!(curriculum.probability(&dull, 0.1), 0.1);
        assert_eq!(curriculum.probability(&lively, 0.1), 1.0);
        // A prompt of the same task that was never drawn is believed to be like the others.
        assert!(curriculum.probability(&prompt("dull", 99), 0.0) < 0.15);
        assert_eq!(curriculum.probability(&prompt("unseen", 0), 0.1), 1.0);
        let run = (0..10_000).filter(|episode| curriculum.draws(&dull, EpisodeId(*episode), 7, 0.1)).count();
        assert!((900..1100).contains(&run), "{run} of 10,000 at a floor of 0.1");
        // A critic that has learned makes it vary.
        (0..4).for_each(|_| curriculum.note("dull-0", "dull", true));
        assert!(curriculum.probability(&dull, 0.1) > 0.3);
    }

    #[test]
    fn a_prompt_is_told_from_others_of_its_task() {
        let mut curriculum = Curriculum::default();
        for round in 0..6 {
            curriculum.note("t-0", "t", false);
            curriculum.note("t-1", "t", round % 2 == 0);
        }
        let [dull, lively] = [0, 1].map(|number| curriculum.probability(&prompt("t", number), 0.05));
        assert!(dull < 0.3 && lively > 0.7, "{dull} {lively}");
    }

    #[test]
    fn where_one_group_in_six_varies_it_doubles_the_share() {
        // Six tasks as in reasoning-train: the groups of one vary often, those of another seldom, the rest never.
        let rates =
            [("gcd", 0.6), ("chain_sum", 0.2), ("legs", 0.0), ("equations", 0.0), ("spell", 0.0), ("sort", 0.0)];
        let varied_in = |floor: f32| {
            let (mut curriculum, mut run, mut varied) = (Curriculum::default(), 0, 0);
            for episode in 0u64.. {
                let (task, rate) = rates[(mix64(episode) % 6) as usize];
                let prompt = prompt(task, (mix64(episode + 1) % 40) as usize);
                if !curriculum.draws(&prompt, EpisodeId(episode), 1, floor) {
                    continue;
                }
                let has_varied = (mix64(episode + 2) % 1000) < (1000.0 * rate) as u64;
                curriculum.note(&prompt.id, task, has_varied);
                (run, varied) = (run + 1, varied + u32::from(has_varied));
                if run == 600 {
                    break;
                }
            }
            varied
        };
        let (plain, drawn) = (varied_in(1.0), varied_in(0.1));
        assert!(plain < 100 && drawn > 2 * plain, "{plain} groups of 600 vary without, {drawn} with it");
    }

    #[test]
    fn what_is_known_is_bounded() {
        let mut curriculum = Curriculum::default();
        (0..PROMPTS_MAX + 10).for_each(|number| curriculum.note(&number.to_string(), &number.to_string(), false));
        assert_eq!((curriculum.prompts.len(), curriculum.tasks.len()), (PROMPTS_MAX, TASKS_MAX));
    }
}

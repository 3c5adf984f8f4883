//! What rollout yields: groups to learn from, groups of zero variance, dropped episodes with their reasons, and what a model judge
//! decides. It says in a sentence when most of the work is lost, and what helps.
//!
//! Counts are of this process. Judgements look at the newest episodes and pairs, so that what was mended is forgotten.

use super::Event;
use crate::types::{Choice, DropReason, Invalid, Label, Pushed, Role};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

/// Groups and pairs that are looked at.
const NEWEST: usize = 64;
/// With fewer of them nothing is said.
const NEWEST_MIN: usize = 16;
/// Above this share of groups of zero variance there is a warning.
const ZERO_VARIANCE_SHARE: f64 = 0.8;
/// From this share of pairs that a judge leaves undecided or invalid on, there is a warning.
const UNCLEAR_SHARE: f64 = 0.5;
/// How long episodes may end without a group before there is a warning; half of what people are promised.
const FRUITLESS: Duration = Duration::from_secs(15);
/// The longest reason that is kept, in characters.
const WHY_CHARS_MAX: usize = 240;

/// What became of a pair that a model judged in both orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Decided,
    /// A tie, or the same letter in both orders.
    Undecided,
    Invalid,
}

/// What rollout has yielded since the process began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RolloutYield {
    /// Groups to learn from.
    pub kept: u64,
    /// Groups of zero variance.
    pub zero_variance: u64,
    /// Episodes without a group, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
    /// The last request that gave nothing: the role, and why.
    pub trouble: Option<(Role, String)>,
    /// Whether each of the newest groups has zero variance.
    groups: VecDeque<bool>,
    pairs: VecDeque<Decision>,
    /// When the first episode since the last group began, later by the time in which none was under way.
    fruitless_since: Option<Instant>,
    /// Since when no episode has been under way.
    idle_since: Option<Instant>,
    /// Episodes dropped since the last group.
    dropped_in_a_row: u64,
}

/// What makes most of the work useless, as a sentence with what helps.
#[derive(Clone, Debug, PartialEq)]
pub enum Warning {
    /// Episodes end without a group, or do not end.
    Fruitless {
        /// For how long, in seconds.
        seconds: u64,
        /// Episodes dropped meanwhile.
        dropped: u64,
        /// The role that failed last, and why.
        why: Option<(Role, String)>,
    },
    /// Most groups have zero variance.
    ZeroVariance {
        /// How many of the newest.
        zero_variance: usize,
        /// How many were looked at.
        of: usize,
    },
    /// The judge decides few of the pairs that it sees.
    JudgeUnclear {
        /// Pairs with an invalid answer.
        invalid: usize,
        /// Ties, and pairs of which it prefers whichever stands first, or second.
        undecided: usize,
        /// How many were looked at.
        of: usize,
    },
}

impl Warning {
    /// A number for each kind: what was logged once is not logged at every look.
    pub(super) fn kind(&self) -> usize {
        match self {
            Self::Fruitless { .. } => 0,
            Self::ZeroVariance { .. } => 1,
            Self::JudgeUnclear { .. } => 2,
        }
    }

    /// The number of kinds.
    pub(super) const KINDS: usize = 3;

    /// What is wrong, without what helps: for one line of a terminal.
    pub fn brief(&self) -> String {
        match self {
            Self::Fruitless { seconds, dropped, why } => {
                let why = why.as_ref().map(|(role, why)| format!(": {} failed: {why}", role.value()));
                format!("no group for {seconds} s, {dropped} episodes dropped{}", why.unwrap_or_default())
            }
            Self::ZeroVariance { zero_variance, of } => {
                format!("{zero_variance} of the last {of} groups have zero variance: nothing to learn from them")
            }
            Self::JudgeUnclear { invalid, undecided, of } => {
                format!("of the last {of} pairs the judge left {invalid} invalid and {undecided} undecided")
            }
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.brief())?;
        f.write_str(match self {
            Self::Fruitless { .. } => "; the run learns nothing until this is mended",
            Self::ZeroVariance { .. } => {
                "; what helps: prompts that the generator answers rightly now and then, more critiques (rollout.critiques) or \
                 refinements (rollout.refinements), a higher critic.sampling.temperature, rollout.curriculum = true"
            }
            Self::JudgeUnclear { .. } => {
                "; what helps: a larger judge (judge.model, judge.kind = \"remote\"), judge.read = \"balanced\" for a small local one, \
                 a longer judge.sampling.max_tokens for one that thinks, judge.prompt"
            }
        })
    }
}

impl RolloutYield {
    /// Takes an event.
    pub(super) fn note(&mut self, event: &Event, now: Instant) {
        match event {
            Event::EpisodeStarted { .. } => {
                let idle = self.idle_since.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
                self.fruitless_since = Some(self.fruitless_since.map_or(now, |since| since + idle));
            }
            Event::EpisodeEnded { pushed, dropped, in_flight, .. } => self.ended(*pushed, *dropped, *in_flight, now),
            Event::RequestFailed { role, why } => {
                self.trouble = Some((*role, why.chars().take(WHY_CHARS_MAX).collect()));
            }
            Event::PairJudged { counted, .. } => push(&mut self.pairs, decision(*counted)),
            _ => {}
        }
    }

    fn ended(&mut self, pushed: Option<Pushed>, dropped: Option<DropReason>, in_flight: usize, now: Instant) {
        self.idle_since = (in_flight == 0).then_some(now);
        match pushed {
            Some(Pushed::Kept) => self.kept += 1,
            Some(Pushed::ZeroVariance) => self.zero_variance += 1,
            Some(Pushed::Duplicate) => return,
            None => {
                *self.dropped.entry(dropped.unwrap_or(DropReason::FewCritiques)).or_default() += 1;
                self.dropped_in_a_row += 1;
                return;
            }
        }
        push(&mut self.groups, pushed == Some(Pushed::ZeroVariance));
        self.dropped_in_a_row = 0;
        self.fruitless_since = (in_flight > 0).then_some(now);
    }

    /// Episodes without a group.
    pub fn dropped_in_all(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// The reasons of dropped episodes, the most frequent first, such as `2 remote, 1 deadline`; empty if there are none.
    pub fn drop_reasons(&self) -> String {
        let mut reasons: Vec<_> = self.dropped.iter().map(|(reason, count)| (*count, reason.words())).collect();
        reasons.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        let parts: Vec<String> = reasons.iter().map(|(count, reason)| format!("{count} {reason}")).collect();
        parts.join(", ")
    }

    /// How long there have been episodes under way and no group.
    fn fruitless(&self, now: Instant) -> Option<Duration> {
        let until = self.idle_since.unwrap_or(now);
        self.fruitless_since.map(|since| until.saturating_duration_since(since))
    }

    /// For how long every episode that ended was dropped, of which there is at least one; none while there are groups. Time in which
    /// no episode is under way, because an operator paused rollout, does not count.
    pub fn useless(&self, now: Instant) -> Option<Duration> {
        self.fruitless(now).filter(|_| self.dropped_in_a_row > 0)
    }

    /// The last trouble as text.
    pub fn why(&self) -> String {
        match &self.trouble {
            Some((role, why)) => format!("{}: {why}", role.value()),
            None => self.drop_reasons(),
        }
    }

    /// What makes most of the work useless now.
    pub fn warnings(&self, now: Instant) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let has_reason = self.dropped_in_a_row > 0 || (self.kept + self.zero_variance == 0 && self.trouble.is_some());
        if let Some(fruitless) = self.fruitless(now).filter(|fruitless| *fruitless >= FRUITLESS && has_reason) {
            let (seconds, dropped) = (fruitless.as_secs(), self.dropped_in_a_row);
            warnings.push(Warning::Fruitless { seconds, dropped, why: self.trouble.clone() });
        }
        let of = self.groups.len();
        let zero_variance = self.groups.iter().filter(|zero| **zero).count();
        if of >= NEWEST_MIN && zero_variance as f64 > ZERO_VARIANCE_SHARE * of as f64 {
            warnings.push(Warning::ZeroVariance { zero_variance, of });
        }
        let of = self.pairs.len();
        let count = |decision| self.pairs.iter().filter(|pair| **pair == decision).count();
        let (invalid, undecided) = (count(Decision::Invalid), count(Decision::Undecided));
        if of >= NEWEST_MIN && (invalid + undecided) as f64 >= UNCLEAR_SHARE * of as f64 {
            warnings.push(Warning::JudgeUnclear { invalid, undecided, of });
        }
        warnings
    }
}

/// Adds to a window of [`NEWEST`].
fn push<T>(window: &mut VecDeque<T>, value: T) {
    if window.len() == NEWEST {
        window.pop_front();
    }
    window.push_back(value);
}

/// The second order shows the first order's texts the other way round.
fn decision(orders: [Result<Choice, Invalid>; 2]) -> Decision {
    match orders {
        [Ok(Choice::A), Ok(Choice::B)] | [Ok(Choice::B), Ok(Choice::A)] => Decision::Decided,
        // Half of a win, or of a loss.
        [Ok(Choice::Tie), Ok(Choice::A | Choice::B)] | [Ok(Choice::A | Choice::B), Ok(Choice::Tie)] => {
            Decision::Decided
        }
        [Ok(_), Ok(_)] => Decision::Undecided,
        _ => Decision::Invalid,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::run::state::Counters;
    use crate::types::EpisodeId;

    fn ended(pushed: Option<Pushed>, dropped: Option<DropReason>) -> Event {
        let (episode, counters) = (EpisodeId(0), Counters::default());
        Event::EpisodeEnded { episode, pushed, dropped, in_flight: 1, counters }
    }

    fn after(seconds: u64, start: Instant) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_run_of_106_useless_groups_in_112_says_so_and_what_helps() {
        let (mut rollout, start) = (RolloutYield::default(), Instant::now());
        let note = |rollout: &mut RolloutYield, pushed| rollout.note(&ended(Some(pushed), None), start);
        for group in 0..112 {
            note(&mut rollout, if group % 19 == 0 { Pushed::Kept } else { Pushed::ZeroVariance });
            let warned = !rollout.warnings(start).is_empty();
            assert_eq!(warned, group + 1 >= NEWEST_MIN, "after {group}");
        }
        assert_eq!((rollout.kept, rollout.zero_variance), (6, 106));
        let warning = rollout.warnings(start)[0].to_string();
        assert!(warning.contains("of the last 64 groups") && warning.contains("rollout.curriculum"), "{warning}");
        // What was mended is forgotten.
        (0..NEWEST / 2).for_each(|_| note(&mut rollout, Pushed::Kept));
        assert!(rollout.warnings(start).is_empty());
    }

    #[test]
    fn dropped_episodes_are_told_with_the_reason_within_half_a_minute_and_until_there_is_a_group() {
        let (mut rollout, start) = (RolloutYield::default(), Instant::now());
        rollout.note(&Event::EpisodeStarted { episode: EpisodeId(0), in_flight: 1 }, start);
        let why = "remote server: connection: refused".to_owned();
        rollout.note(&Event::RequestFailed { role: Role::Judge, why }, after(2, start));
        assert!(rollout.warnings(after(10, start)).is_empty() && rollout.useless(after(10, start)).is_none());
        // Not one episode has ended, and the reason is known.
        assert!(rollout.warnings(after(16, start))[0].to_string().contains("judge failed: remote server: connection"));
        rollout.note(&ended(None, Some(DropReason::FewCritiques)), after(17, start));
        assert_eq!(rollout.useless(after(20, start)), Some(Duration::from_secs(20)));
        assert_eq!((rollout.dropped_in_all(), rollout.drop_reasons()), (1, "1 without verdicts".to_owned()));
        rollout.note(&ended(Some(Pushed::ZeroVariance), None), after(18, start));
        assert!(rollout.warnings(after(30, start)).is_empty() && rollout.useless(after(30, start)).is_none());
    }

    #[test]
    fn time_without_an_episode_under_way_does_not_count() {
        let (mut rollout, start) = (RolloutYield::default(), Instant::now());
        let begun = Event::EpisodeStarted { episode: EpisodeId(0), in_flight: 1 };
        let dropped = Event::EpisodeEnded {
            episode: EpisodeId(0),
            pushed: None,
            dropped: Some(DropReason::Remote),
            in_flight: 0,
            counters: Counters::default(),
        };
        rollout.note(&begun, start);
        rollout.note(&dropped, after(5, start));
        // Paused for ten minutes.
        assert_eq!(rollout.useless(after(600, start)), Some(Duration::from_secs(5)));
        assert!(rollout.warnings(after(600, start)).is_empty());
        rollout.note(&begun, after(605, start));
        assert_eq!(rollout.useless(after(610, start)), Some(Duration::from_secs(10)));
        rollout.note(&dropped, after(620, start));
        assert_eq!(rollout.useless(after(630, start)), Some(Duration::from_secs(20)));
    }

    #[test]
    fn a_slow_run_without_failures_is_not_warned_of() {
        let (mut rollout, start) = (RolloutYield::default(), Instant::now());
        rollout.note(&Event::EpisodeStarted { episode: EpisodeId(0), in_flight: 1 }, start);
        assert!(rollout.warnings(after(600, start)).is_empty() && rollout.useless(after(600, start)).is_none());
    }

    #[test]
    fn a_judge_that_decides_less_than_half_of_its_pairs_is_told() {
        let (mut rollout, start) = (RolloutYield::default(), Instant::now());
        let mut judge = |orders: [Result<Choice, Invalid>; 2], pairs: usize| {
            (0..pairs).for_each(|_| rollout.note(&Event::PairJudged { heard: orders, counted: orders }, start));
            rollout.warnings(start).first().map(ToString::to_string)
        };
        assert_eq!(judge([Ok(Choice::A), Ok(Choice::B)], 20), None);
        // It says A whatever it is shown, or nothing that can be read.
        assert_eq!(judge([Ok(Choice::A), Ok(Choice::A)], 10), None);
        let told = judge([Ok(Choice::A), Err(Invalid::Unreadable)], 10).unwrap();
        assert!(told.starts_with("of the last 40 pairs the judge left 10 invalid and 10 undecided"), "{told}");
    }
}

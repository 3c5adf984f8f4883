//! One episode: a prompt's whole tree, in the order of the paper (RCO, arXiv 2506.22157, section 3).
//!
//! [`run_episode`] is the algorithm. It knows neither actors nor engines: its [`Participants`] generate and
//! judge. All seeds follow from (node seed, episode, role, index), so an episode that is run again has the same seeds.
//!
//! Invariant: a dropped critique or judgement never counts as a loss; a group has at least two scored critiques.

use super::judge::{JudgeRequest, PreferenceRequest};
use super::role::{ResponseContext, RoleOutput};
use super::seed::seed;
use super::trace::EpisodeTrace;
use crate::run::events::{Event, EventBus};
use crate::run::state::DropReason;
use crate::telemetry::metrics::Role;
use crate::types::{
    Completion, CritiqueGroup, EpisodeId, Invalid, Preference, Prompt, ScoredCritique, Verdict, utility,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::task::{JoinError, JoinSet};

/// The size of an episode, and how many run at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutConfig {
    /// N of RCO: critiques of a response.
    pub critiques: usize,
    /// M of RCO: refinements of a critique.
    pub refinements: usize,
    /// Episodes that run at once.
    pub rollouts_max: usize,
    /// Whether prompts whose groups never vary are drawn less often.
    pub curriculum: bool,
    /// The smallest probability with which such a prompt is drawn.
    pub curriculum_floor: f64,
    /// Deadline of one request to a role, in seconds.
    pub ask_deadline_seconds: u64,
}

impl RolloutConfig {
    /// The invalid values, one message each.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut at_least = |key: &str, least: u64, got: u64| {
            if got < least {
                complaints.push(format!("rollout.{key}: expected at least {least}, got {got}"));
            }
        };
        at_least("critiques", 2, self.critiques as u64);
        at_least("refinements", 1, self.refinements as u64);
        at_least("rollouts_max", 1, self.rollouts_max as u64);
        at_least("ask_deadline_seconds", 1, self.ask_deadline_seconds);
        if !(0.01..=1.0).contains(&self.curriculum_floor) {
            let got = self.curriculum_floor;
            complaints.push(format!("rollout.curriculum_floor: expected a number from 0.01 to 1, got {got}"));
        }
        complaints
    }
}

/// Why an episode gave no group; `F` is what its participants fail with.
#[derive(Debug)]
pub enum EpisodeError<F> {
    /// It ends without a group, and is counted.
    Dropped(DropReason),
    /// A participant failed: the episode has to be run again.
    Failed(F),
}

impl<F> From<F> for EpisodeError<F> {
    fn from(failure: F) -> Self {
        Self::Failed(failure)
    }
}

/// The roles and the judge of an episode.
pub trait Participants: Send + Sync + 'static {
    /// An error after which the episode has to be run again.
    type Failure: Send + 'static;

    /// One response to `prompt`: `y0 ~ generator(. | x)`.
    fn respond(
        &self,
        prompt: Arc<Prompt>,
        seed: u64,
    ) -> impl Future<Output = Result<RoleOutput, EpisodeError<Self::Failure>>> + Send;

    /// `n` critiques of a response: `c_i ~ critic(. | x, y0)`.
    fn criticise(
        &self,
        context: Arc<ResponseContext>,
        n: usize,
        seed: u64,
    ) -> impl Future<Output = Result<RoleOutput, EpisodeError<Self::Failure>>> + Send;

    /// `m` refinements of the response by one critique: `y_ij ~ generator(. | x, y0, c_i)`.
    fn refine(
        &self,
        context: Arc<ResponseContext>,
        critique: Arc<Completion>,
        m: usize,
        seed: u64,
    ) -> impl Future<Output = Result<RoleOutput, EpisodeError<Self::Failure>>> + Send;

    /// Verdicts on the refinements of one critique: `PS(y_ij, y0)`.
    fn judge(
        &self,
        request: JudgeRequest,
        seed: u64,
    ) -> impl Future<Output = Result<Vec<Verdict>, EpisodeError<Self::Failure>>> + Send;

    /// Which critiques the judge prefers to which others, by their indices.
    fn prefer(
        &self,
        request: PreferenceRequest,
        seed: u64,
    ) -> impl Future<Output = Result<Vec<Preference>, EpisodeError<Self::Failure>>> + Send;

    /// The failure of a generator that wrote no text.
    fn no_response(&self) -> Self::Failure;

    /// The failure of a task that panicked.
    fn panicked(&self, error: JoinError) -> Self::Failure;
}

/// The inputs of an episode.
#[derive(Clone, Debug)]
pub struct EpisodeSpec {
    /// Its number.
    pub episode: EpisodeId,
    /// Its prompt.
    pub prompt: Arc<Prompt>,
    /// N: critiques of the response.
    pub critiques: usize,
    /// M: refinements of a critique.
    pub refinements: usize,
    /// Whether the judge also compares the critiques with each other, for DPCO.
    pub critique_preferences: bool,
    /// The node's seed.
    pub seed: u64,
}

/// Runs one episode: response, N critiques, N x M refinements, their verdicts, and each critique's utility
/// `CU_i = mean_j PS(y_ij, y0)`. `trace` gets the texts and verdicts, those of dropped critiques too.
///
/// # Errors
/// If fewer than two critiques were scored, or a participant dropped the response or failed.
pub async fn run_episode<P: Participants>(
    participants: Arc<P>,
    spec: EpisodeSpec,
    events: EventBus,
    trace: EpisodeTrace,
) -> Result<CritiqueGroup, EpisodeError<P::Failure>> {
    let seed = |role, index| seed(spec.seed, spec.episode, role, index);

    let RoleOutput { rendered, mut completions } =
        participants.respond(spec.prompt.clone(), seed(Role::Generator, 0)).await?;
    let response = completions.pop().ok_or_else(|| participants.no_response())?;
    let context = Arc::new(ResponseContext { prompt: spec.prompt.clone(), rendered, response });
    trace.responded(&context.response);

    let critiques = participants.criticise(context.clone(), spec.critiques, seed(Role::Critic, 0)).await?;
    let prefix_ids = critiques.rendered.ids;
    let critiques: Vec<_> = critiques.completions.into_iter().map(Arc::new).collect();
    trace.criticised(&critiques);

    // DPCO, RCO's control, learns from preferences between the critiques themselves. Its seeds follow the critiques' own.
    let mut preferring = JoinSet::new();
    if spec.critique_preferences {
        let request = PreferenceRequest { context: context.clone(), critiques: critiques.clone() };
        let (participants, seed) = (participants.clone(), seed(Role::Judge, critiques.len() as u64));
        preferring.spawn(async move { participants.prefer(request, seed).await });
    }

    let mut scoring = JoinSet::new();
    for (index, critique) in critiques.into_iter().enumerate() {
        let seeds = [seed(Role::Refiner, index as u64), seed(Role::Judge, index as u64)];
        let traced = (index, trace.clone());
        let scored = score(participants.clone(), context.clone(), critique, spec.refinements, seeds, traced);
        scoring.spawn(async move { (index, scored.await) });
    }
    let (mut scored, mut refused) = (Vec::with_capacity(spec.critiques), 0);
    while let Some(joined) = scoring.join_next().await {
        match joined.map_err(|error| participants.panicked(error))? {
            (index, Ok(critique)) => {
                let (task, version) = (spec.prompt.task.clone(), critique.completion.version);
                events.emit(Event::CritiqueScored { task, version, utility: critique.utility });
                scored.push((index, critique));
            }
            (index, Err(EpisodeError::Dropped(reason))) => {
                trace.dropped(index, reason);
                refused += usize::from(reason == DropReason::Refused);
                events.emit(Event::CritiqueDropped(reason));
            }
            (_, Err(failed)) => return Err(failed),
        }
    }
    if scored.len() < 2 {
        // An episode that refusals ended counts as refused, wherever in it they happened.
        let reason = if refused > 0 { DropReason::Refused } else { DropReason::FewCritiques };
        return Err(EpisodeError::Dropped(reason));
    }
    scored.sort_by_key(|(index, _)| *index);
    let kept: Vec<usize> = scored.iter().map(|(index, _)| *index).collect();
    let preferences = match preferring.join_next().await {
        Some(joined) => joined.map_err(|error| participants.panicked(error))??,
        None => Vec::new(),
    };
    Ok(CritiqueGroup {
        episode: spec.episode,
        prompt_id: spec.prompt.id.clone(),
        task: spec.prompt.task.clone(),
        prefix_ids,
        critiques: scored.into_iter().map(|(_, critique)| critique).collect(),
        preferences: preferences.into_iter().filter_map(|preference| among(&kept, preference)).collect(),
    })
}

/// One critique's refinements, their verdicts and its utility.
async fn score<P: Participants>(
    participants: Arc<P>,
    context: Arc<ResponseContext>,
    critique: Arc<Completion>,
    m: usize,
    [refiner_seed, judge_seed]: [u64; 2],
    (index, trace): (usize, EpisodeTrace),
) -> Result<ScoredCritique, EpisodeError<P::Failure>> {
    let refinements = participants.refine(context.clone(), critique.clone(), m, refiner_seed).await?.completions;
    trace.refined(index, &refinements);
    let request = JudgeRequest { context, critique: critique.clone(), refinements };
    let verdicts = participants.judge(request, judge_seed).await?;
    trace.judged(index, &verdicts);
    let utility = utility(&verdicts).ok_or_else(|| EpisodeError::Dropped(no_utility(&verdicts)))?;
    Ok(ScoredCritique { completion: Arc::unwrap_or_clone(critique), utility, verdicts })
}

/// Why a critique whose verdicts are all invalid is dropped.
fn no_utility(verdicts: &[Verdict]) -> DropReason {
    match verdicts.contains(&Verdict::Invalid(Invalid::Refused)) {
        true => DropReason::Refused,
        false => DropReason::NoVerdict,
    }
}

/// Maps a preference between all critiques to the indices of those that were `kept`; none if either was dropped.
fn among(kept: &[usize], Preference { chosen, rejected }: Preference) -> Option<Preference> {
    let index = |critique: usize| kept.binary_search(&critique).ok();
    Some(Preference { chosen: index(chosen)?, rejected: index(rejected)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_follow_the_critiques_that_were_kept() {
        let preference = |chosen, rejected| Preference { chosen, rejected };
        assert_eq!(among(&[0, 2, 3], preference(3, 0)), Some(preference(2, 0)));
        assert_eq!(among(&[0, 2, 3], preference(2, 3)), Some(preference(1, 2)));
        assert_eq!(among(&[0, 2, 3], preference(1, 3)), None);
        assert_eq!(among(&[0, 2, 3], preference(3, 1)), None);
    }
}

//! When requests over HTTP sit a step out, so that many of them do not slow the steps of few rollouts.
//!
//! A sequence that decodes gets one token a step, and a step is the longer the more tokens it has. Dividing the tokens of a
//! step is then not enough: beside 64 streams, 8 rollouts would wait for steps of 72 tokens. So the time that requests over
//! HTTP add to the steps in which both have work is held to their share of it. Where a step of many tokens takes no longer
//! than one of few, as where a GPU is bound by its memory, nobody sits out.

use super::plan::HttpShare;

/// Steps in a row that requests over HTTP sit out at most, whatever their share.
const SAT_OUT_MAX: usize = 32;

/// The weight of a step in what its successor knows of costs.
const DECAY: f64 = 0.98;

/// Mean steps of time that a lead is at most: what was taken long ago is forgiven.
const LEAD_STEPS_MAX: f64 = 32.0;

/// Mean steps whose share is saved up where it was not used, so that noise in the times costs nobody a step.
const SAVED_STEPS: f64 = 4.0;

/// The seconds of a step over its tokens: a line fitted to recent steps by least squares.
#[derive(Clone, Copy, Debug, Default)]
struct StepTime {
    steps: f64,
    tokens: f64,
    seconds: f64,
    tokens_squared: f64,
    tokens_by_seconds: f64,
}

impl StepTime {
    fn count(&mut self, tokens: f64, seconds: f64) {
        let Self { steps, tokens: x, seconds: y, tokens_squared: xx, tokens_by_seconds: xy } = self;
        for (sum, term) in [(steps, 1.0), (x, tokens), (y, seconds), (xx, tokens * tokens), (xy, tokens * seconds)] {
            *sum = DECAY * *sum + term;
        }
    }

    /// Seconds of a step on average.
    fn per_step(&self) -> f64 {
        self.seconds / self.steps.max(1.0)
    }

    /// Seconds that one token more costs. Until steps differ, all that a step costs is put down to its tokens.
    fn per_token(&self) -> f64 {
        let whole = self.seconds / self.tokens.max(1.0);
        let variance = self.tokens_squared - self.tokens * self.tokens / self.steps.max(1.0);
        if variance < 1e-3 * self.tokens_squared {
            return whole;
        }
        let covariance = self.tokens_by_seconds - self.tokens * self.seconds / self.steps;
        (covariance / variance).clamp(0.0, whole)
    }
}

/// How much more time than their share requests over HTTP have taken of the steps in which rollouts had work too.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HttpTurns {
    cost: StepTime,
    /// Seconds ahead of their share; below zero what is saved up.
    lead: f64,
    /// Steps in a row that they sat out.
    sat_out: usize,
}

impl HttpTurns {
    /// Whether they sit the next step out, if rollouts have work in it.
    pub(crate) fn sits_out(&self) -> bool {
        self.lead > 0.0 && self.sat_out < SAT_OUT_MAX
    }

    /// Counts a step that took `seconds` for its tokens by origin. `shared`: both had work.
    pub(crate) fn count(&mut self, share: HttpShare, tokens: [usize; 2], shared: bool, seconds: f64) {
        let [rollout, http] = tokens.map(|tokens| tokens as f64);
        self.cost.count(rollout + http, seconds);
        self.sat_out = if shared && http == 0.0 { self.sat_out + 1 } else { 0 };
        let saved = -SAVED_STEPS * share.of(self.cost.per_step());
        let most = LEAD_STEPS_MAX * self.cost.per_step();
        self.lead = match shared {
            true => {
                let token = self.cost.per_token();
                // Where they had no more than their share of the tokens, a step that was quick by chance is no lead.
                let (of_time, of_tokens) = (share.of(seconds), share.of(token * (rollout + http)));
                (self.lead + token * http - of_time.max(of_tokens)).max(saved).min(most)
            }
            // Whoever is alone takes nothing from the other.
            false => saved,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of 8 rollouts' tokens and, where they do not sit out, 64 over HTTP, each of which takes `fixed` and a
    /// microsecond a token, with noise; the mean seconds of the last thousand over those of a step of rollouts alone, and
    /// the share of them with HTTP.
    fn slowed(share: f64, fixed: f64) -> (f64, f64) {
        let (mut turns, share) = (HttpTurns::default(), HttpShare::new(share));
        let (mut time, mut with) = (0.0, 0);
        for step in 0..2000_u32 {
            let http = if turns.sits_out() { 0 } else { 64 };
            let noise = 1.0 + 0.2 * f64::from(step.wrapping_mul(2_654_435_761) >> 16) / 65536.0 - 0.1;
            let seconds = (fixed + 1e-6 * (8 + http) as f64) * noise;
            turns.count(share, [8, http], true, seconds);
            if step >= 1000 {
                time += seconds / 1000.0;
                with += usize::from(http > 0);
            }
        }
        (time / (fixed + 8e-6), with as f64 / 1000.0)
    }

    #[test]
    fn streams_add_their_share_of_the_time_to_the_steps_of_rollouts() {
        for share in [0.25, 0.5, 0.75] {
            let (slowed, with) = slowed(share, 0.0);
            let expected = 1.0 / (1.0 - share);
            assert!((slowed / expected - 1.0).abs() < 0.1, "{share}: {slowed} for {expected}");
            assert!(with > 0.03, "{share}: HTTP takes part in {with}");
        }
    }

    #[test]
    fn where_a_step_costs_the_same_whatever_it_holds_nobody_sits_out() {
        let (slowed, with) = slowed(0.25, 1e-3);
        assert!(with > 0.97 && slowed < 1.15, "{slowed} times as slow, HTTP in {with} of the steps");
    }

    #[test]
    fn whoever_has_its_share_of_the_tokens_never_sits_out() {
        let (mut turns, share) = (HttpTurns::default(), HttpShare::new(0.75));
        for step in 0..1000 {
            turns.count(share, [4, 12], true, if step % 3 == 0 { 1e-5 } else { 3e-6 });
            assert!(!turns.sits_out(), "in step {step}");
        }
    }

    #[test]
    fn long_prefills_are_not_paid_for_longer_than_their_lead_at_most() {
        let (mut turns, share) = (HttpTurns::default(), HttpShare::new(0.5));
        let step = |turns: &mut HttpTurns, http: usize| {
            let http = if turns.sits_out() { 0 } else { http };
            turns.count(share, [8, http], true, 0.005 + 0.001 * (8 + http) as f64);
            http > 0
        };
        for _ in 0..5000 {
            step(&mut turns, 504);
        }
        let with = (0..2000).filter(|_| step(&mut turns, 4)).count();
        assert!(with > 1000, "four streams take part in {with} of 2000 steps");
    }

    #[test]
    fn nobody_sits_out_for_ever_and_what_was_taken_alone_is_not_counted() {
        let (mut turns, share) = (HttpTurns::default(), HttpShare::new(0.0));
        turns.count(share, [1, 1_000_000], true, 1.0);
        for _ in 0..SAT_OUT_MAX {
            assert!(turns.sits_out());
            turns.count(share, [1, 0], true, 1e-6);
        }
        assert!(!turns.sits_out(), "a step is theirs");
        turns.count(share, [0, 64], false, 1.0);
        assert!(!turns.sits_out());
    }
}

//! DPCO's loss on one critique group, and its gradient with respect to the log-ratios. Pure functions on numbers.
//!
//! DPCO is RCO's own baseline (arXiv 2506.22157, section 4): DPO (arXiv 2305.18290, eq. 7) on pairs of critiques that
//! the judge compared directly, without any refinement. The loss of a pair of a chosen and a rejected critique is
//!
//! `loss = -log sigmoid(beta (r_chosen - r_rejected))`, in nats; a group's loss is the mean over its pairs.
//!
//! Use it as a control for RCO: it learns what the judge likes to read, not what improves the response.

use crate::types::Preference;

/// Loss of one group's pairs and its derivatives.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// Mean loss of the pairs (nats).
    pub loss: f64,
    /// `d loss / d r_i`, one per critique.
    pub gradient: Vec<f64>,
    /// Share of the pairs whose chosen critique has the larger log-ratio; a tie is half.
    pub accuracy: f64,
    /// Mean of `beta (r_chosen - r_rejected)`.
    pub margin: f64,
}

/// DPO's loss of one group; all terms are 0 without pairs.
///
/// # Panics
/// If a pair's index is out of range.
pub fn dpo(beta: f64, log_ratios: &[f32], pairs: &[Preference]) -> Terms {
    let mut terms = Terms { loss: 0.0, gradient: vec![0.0; log_ratios.len()], accuracy: 0.0, margin: 0.0 };
    let share = 1.0 / pairs.len().max(1) as f64;
    for &Preference { chosen, rejected } in pairs {
        let margin = beta * (f64::from(log_ratios[chosen]) - f64::from(log_ratios[rejected]));
        // -log sigmoid(margin) and sigmoid(-margin), for margins of any size.
        let small = (-margin.abs()).exp();
        terms.loss += share * ((-margin).max(0.0) + small.ln_1p());
        let pull = if margin > 0.0 { small / (1.0 + small) } else { 1.0 / (1.0 + small) };
        terms.gradient[chosen] -= share * beta * pull;
        terms.gradient[rejected] += share * beta * pull;
        let right = if margin > 0.0 { 1.0 } else { 0.0 };
        terms.accuracy += share * if margin == 0.0 { 0.5 } else { right };
        terms.margin += share * margin;
    }
    terms
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIRS: [Preference; 3] = [
        Preference { chosen: 2, rejected: 0 },
        Preference { chosen: 2, rejected: 1 },
        Preference { chosen: 0, rejected: 1 },
    ];

    #[test]
    fn pulls_the_chosen_up_and_the_rejected_down_by_the_same() {
        let terms = dpo(0.5, &[0.0; 3], &PAIRS);
        assert!((terms.loss - 2.0f64.ln()).abs() < 1e-12 && terms.accuracy == 0.5 && terms.margin == 0.0);
        assert!(terms.gradient.iter().sum::<f64>().abs() < 1e-12);
        assert!(terms.gradient[2] < 0.0 && terms.gradient[1] > 0.0 && terms.gradient[0].abs() < 1e-12, "{terms:?}");
    }

    #[test]
    fn stands_margins_of_any_size_and_groups_without_pairs() {
        let right = dpo(1.0, &[5000.0, -5000.0], &[Preference { chosen: 0, rejected: 1 }]);
        assert!(right.loss < 1e-12 && right.accuracy == 1.0 && right.gradient == [0.0, 0.0], "{right:?}");
        let wrong = dpo(1.0, &[5000.0, -5000.0], &[Preference { chosen: 1, rejected: 0 }]);
        assert!((wrong.loss - 10_000.0).abs() < 1e-6 && wrong.gradient == [1.0, -1.0], "{wrong:?}");
        assert_eq!(dpo(1.0, &[1.0, 2.0], &[]).gradient, [0.0, 0.0]);
    }
}

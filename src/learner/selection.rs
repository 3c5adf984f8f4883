//! Selects the critiques of a group that are learned from, if not all of them are.
//!
//! Sampling is cheap and learning is expensive, and critiques of equal utility add little to each other. The selection
//! therefore maximises the variance of the utilities (PODS, arXiv 2504.13818): some of the highest and some of the
//! lowest. The optimum stays the same, because DRO's residuals vanish there for every critique (arXiv 2405.19107,
//! theorem 1). A baseline that is estimated from the whole group, such as `partition`, would be biased.

use super::config::LearnerConfig;
use crate::types::{CritiqueGroup, Objective};
use std::sync::Arc;

/// `group` reduced to at most `config.critiques_max` critiques, in their order.
pub(super) fn of(config: &LearnerConfig, group: Arc<CritiqueGroup>) -> Arc<CritiqueGroup> {
    let most = config.critiques_max;
    if most == 0 || group.critiques.len() <= most || config.objective != Objective::Rco {
        return group;
    }
    let utilities: Vec<f32> = group.critiques.iter().map(|critique| critique.utility).collect();
    let CritiqueGroup { episode, prompt_id, task, prefix_ids, critiques, .. } = &*group;
    Arc::new(CritiqueGroup {
        episode: *episode,
        prompt_id: prompt_id.clone(),
        task: task.clone(),
        prefix_ids: prefix_ids.clone(),
        critiques: most_varied(&utilities, most).into_iter().map(|index| critiques[index].clone()).collect(),
        preferences: vec![], // indices into the whole group; RCO does not read them
    })
}

/// The indices, ascending, of the `most` utilities with the largest variance. Among equal utilities the first are
/// taken.
fn most_varied(utilities: &[f32], most: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..utilities.len()).collect();
    places.sort_by(|&a, &b| utilities[b].total_cmp(&utilities[a]));
    // The variance is largest for some number of the highest and the rest from the lowest.
    let chosen = |highest: usize| {
        let lowest = places.len() - (most - highest);
        places[..highest].iter().chain(&places[lowest..]).copied()
    };
    let variance = |highest: &usize| {
        let of = |place: usize| f64::from(utilities[place]);
        let mean = chosen(*highest).map(of).sum::<f64>() / most as f64;
        chosen(*highest).map(|place| (of(place) - mean).powi(2)).sum::<f64>()
    };
    let best = (0..=most).max_by(|a, b| variance(a).total_cmp(&variance(b))).unwrap_or(most);
    let mut chosen: Vec<usize> = chosen(best).collect();
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn variance(utilities: &[f32], places: &[usize]) -> f64 {
        let values: Vec<f64> = places.iter().map(|&place| f64::from(utilities[place])).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter().map(|value| (value - mean).powi(2)).sum()
    }

    #[test]
    fn what_differs_is_taken_and_what_is_alike_once_or_twice() {
        let utilities = [0.5, 0.5, 1.0, 0.5, 0.0, 0.5, 0.5, 1.0];
        let chosen = most_varied(&utilities, 4);
        assert!([2, 4, 7].iter().all(|place| chosen.contains(place)), "{chosen:?}");
        assert_eq!(chosen.len(), 4);
        assert_eq!(most_varied(&[1.0, 1.0, 1.0, 0.0], 2).len(), 2);
        assert!(most_varied(&[1.0, 1.0, 1.0, 0.0], 2).contains(&3));
    }

    proptest! {
        /// Against every subset of the size there is.
        #[test]
        fn no_other_critiques_vary_more(
            utilities in prop::collection::vec(prop::sample::select(vec![0.0f32, 0.25, 0.5, 0.75, 1.0]), 2..10),
            most in 2usize..6,
        ) {
            let most = most.min(utilities.len());
            let chosen = most_varied(&utilities, most);
            prop_assert_eq!(chosen.len(), most);
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            let subsets = (0u32..1 << utilities.len()).filter(|bits| bits.count_ones() as usize == most);
            let best = subsets.map(|bits| {
                let places: Vec<usize> = (0..utilities.len()).filter(|place| bits >> place & 1 == 1).collect();
                variance(&utilities, &places)
            }).fold(0.0, f64::max);
            prop_assert!((variance(&utilities, &chosen) - best).abs() < 1e-9);
        }
    }
}

#![allow(clippy::unwrap_used)]

use super::*;
use crate::learner::optimizer::Adam;
use crate::learner::value::Value;
use crate::learner::{HostTensor, dpco};
use crate::types::Preference;
use std::collections::BTreeMap;

const UTILITIES: [f32; 4] = [0.0, 0.25, 0.5, 1.0];

/// What PyTorch computed; see `tests/golden/objective.py`.
#[derive(Deserialize)]
struct Golden {
    rco: Vec<Case>,
    dpo: Pairs,
    value: Network,
}

#[derive(Deserialize)]
struct Case {
    baseline: String,
    beta: f64,
    residual_clip: Option<f64>,
    truncation: Truncation,
    kept: Vec<bool>,
    utilities: Vec<f32>,
    log_ratios: Vec<f32>,
    behaviour: Vec<f32>,
    value: f64,
    b: f64,
    loss: f64,
    gradient: Vec<f64>,
    truncated: usize,
}

#[derive(Deserialize)]
struct Pairs {
    beta: f64,
    log_ratios: Vec<f32>,
    pairs: Vec<[usize; 2]>,
    loss: f64,
    gradient: Vec<f64>,
    accuracy: f64,
    margin: f64,
}

#[derive(Deserialize)]
struct Network {
    inputs: usize,
    width: usize,
    beta: f64,
    adam: BTreeMap<String, f64>,
    start: BTreeMap<String, Vec<f32>>,
    gradient: BTreeMap<String, Vec<f32>>,
    groups: Vec<Seen>,
    losses: Vec<f64>,
    end: BTreeMap<String, Vec<f32>>,
    predictions: Vec<f64>,
}

#[derive(Deserialize)]
struct Seen {
    hidden: Vec<f32>,
    utilities: Vec<f32>,
    log_ratios: Vec<f32>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../../tests/golden/objective.json")).unwrap()
}

fn close(got: f64, expected: f64, limit: f64) -> bool {
    (got - expected).abs() <= limit * expected.abs().max(1.0)
}

fn all_close(got: &[f64], expected: &[f64], limit: f64) -> bool {
    got.len() == expected.len() && got.iter().zip(expected).all(|(&got, &expected)| close(got, expected, limit))
}

fn baseline(name: &str) -> Baseline {
    serde_json::from_value(name.into()).unwrap()
}

/// The loss with every option off.
fn dro(baseline: Baseline, beta: f64, utilities: &[f32], log_ratios: &[f32]) -> Terms {
    let options = Options { baseline, beta, residual_clip: None, truncation: Truncation::None };
    let behaviour = vec![0.0; utilities.len()];
    rco(&options, &Observed { utilities, log_ratios, behaviour: &behaviour, value: None, kept: None })
}

#[test]
fn loss_baseline_and_gradient_are_those_of_pytorch_under_every_option() {
    let cases = golden().rco;
    assert_eq!(cases.len(), 32);
    for case in &cases {
        let options = Options {
            baseline: baseline(&case.baseline),
            beta: case.beta,
            residual_clip: case.residual_clip,
            truncation: case.truncation,
        };
        let group = Observed {
            utilities: &case.utilities,
            log_ratios: &case.log_ratios,
            behaviour: &case.behaviour,
            value: Some(case.value),
            kept: Some(&case.kept),
        };
        let terms = rco(&options, &group);
        assert!(close(terms.baseline, case.b, 1e-9), "{options:?}: {} for {}", terms.baseline, case.b);
        assert!(close(terms.loss, case.loss, 1e-9), "{options:?}: {} for {}", terms.loss, case.loss);
        assert!(all_close(&terms.gradient, &case.gradient, 1e-9), "{options:?}: {:?}", terms.gradient);
        assert_eq!(terms.truncated, case.truncated, "{options:?}");
    }
    assert!(cases.iter().any(|case| case.truncated > 0), "something was truncated");
}

#[test]
fn dpo_is_that_of_pytorch() {
    let Pairs { beta, log_ratios, pairs, loss, gradient, accuracy, margin } = golden().dpo;
    let pairs: Vec<_> = pairs.into_iter().map(|[chosen, rejected]| Preference { chosen, rejected }).collect();
    let terms = dpco::dpo(beta, &log_ratios, &pairs);
    assert!(close(terms.loss, loss, 1e-9) && all_close(&terms.gradient, &gradient, 1e-9), "{terms:?}");
    assert!(close(terms.accuracy, accuracy, 1e-9) && close(terms.margin, margin, 1e-9), "{terms:?}");
}

/// The network of `weights`, with empty moments.
fn network(golden: &Network) -> Value {
    let take = &mut |name: &str| {
        let fresh = Value::new(golden.inputs, golden.width, 0).tensors();
        let mut tensor = fresh.into_iter().find(|(other, _)| other == name)?.1;
        if let Some(weights) = name.strip_prefix("value.").and_then(|name| golden.start.get(name)) {
            tensor.data.clone_from(weights);
        }
        Some(tensor)
    };
    Value::restore(golden.inputs, golden.width, take).unwrap()
}

fn gather(value: &mut Value, golden: &Network) -> f64 {
    let share = 1.0 / golden.groups.len() as f64;
    let one = |seen: &Seen| value.gather(&seen.hidden, &seen.utilities, golden.beta, &seen.log_ratios, share);
    golden.groups.iter().map(one).sum()
}

fn adam(golden: &Network) -> Adam {
    let of = |name: &str| golden.adam[name];
    Adam { rate: of("rate"), beta1: of("beta1"), beta2: of("beta2"), epsilon: of("epsilon") }
}

fn tensors(value: &Value) -> BTreeMap<String, HostTensor> {
    value.tensors().into_iter().collect()
}

#[test]
fn the_value_network_learns_as_pytorch_lets_it() {
    let golden = golden().value;
    let mut value = network(&golden);
    for expected in &golden.losses {
        let loss = gather(&mut value, &golden);
        assert!(close(loss, *expected, 1e-5), "{loss} for {expected}");
        value.update(adam(&golden));
        if expected == &golden.losses[0] {
            // After one step the first moment is (1 - beta1) times the gradient.
            for (name, gradient) in &golden.gradient {
                let moment = &tensors(&value)[&format!("value.{name}.m")];
                let got: Vec<f64> = moment.data.iter().map(|&m| f64::from(m) / 0.1).collect();
                let gradient: Vec<f64> = gradient.iter().map(|&g| f64::from(g)).collect();
                assert!(all_close(&got, &gradient, 1e-6), "{name}: {got:?} for {gradient:?}");
            }
        }
    }
    for (name, weights) in &golden.end {
        let got: Vec<f64> = tensors(&value)[&format!("value.{name}")].data.iter().map(|&w| w.into()).collect();
        assert!(all_close(&got, &weights.iter().map(|&w| w.into()).collect::<Vec<_>>(), 1e-5), "{name}");
    }
    for (seen, expected) in golden.groups.iter().zip(&golden.predictions) {
        assert!(close(value.predict(&seen.hidden), *expected, 1e-5));
    }
}

#[test]
fn at_the_optimum_every_baseline_but_mean_loses_nothing_truncated_or_not() {
    // r_i = (CU_i - beta log Z) / beta is the optimum p exp(CU / beta) / Z.
    let beta = 0.3;
    let z = UTILITIES.iter().map(|&u| (f64::from(u) / beta).exp()).sum::<f64>() / 4.0;
    let ratios = UTILITIES.map(|u| (f64::from(u) / beta - z.ln()) as f32);
    for truncation in [Truncation::None, Truncation::Topr] {
        let loss = |baseline| {
            let options = Options { baseline, beta, residual_clip: None, truncation };
            let (utilities, behaviour) = (&UTILITIES, &[-1.0; 4]);
            let value = Some(beta * z.ln());
            rco(&options, &Observed { utilities, log_ratios: &ratios, behaviour, value, kept: None }).loss
        };
        for baseline in [Baseline::Partition, Baseline::Vargrad, Baseline::Value] {
            assert!(loss(baseline) < 1e-12, "{baseline:?}");
        }
        assert!(loss(Baseline::Mean) > 1e-3);
    }
}

#[test]
fn partition_stands_very_small_betas() {
    let terms = dro(Baseline::Partition, 1e-4, &UTILITIES, &[0.0; 4]);
    assert!(terms.loss.is_finite() && (terms.baseline - 1.0).abs() < 1e-3, "{terms:?}");
}

#[test]
fn the_weights_of_vargrad_and_mean_sum_to_zero_at_the_start() {
    for baseline in [Baseline::Vargrad, Baseline::Mean] {
        assert!(dro(baseline, 0.1, &UTILITIES, &[0.0; 4]).gradient.iter().sum::<f64>().abs() < 1e-12);
    }
}

#[test]
fn a_masked_critique_leaves_its_group_as_if_it_had_never_been() {
    let options = Options { baseline: Baseline::Vargrad, beta: 0.2, residual_clip: None, truncation: Truncation::None };
    let ratios = [0.1, -0.4, 0.3, 9.0];
    let observe = |count: usize, kept| Observed {
        utilities: &UTILITIES[..count],
        log_ratios: &ratios[..count],
        behaviour: &[0.0; 4][..count],
        value: None,
        kept,
    };
    let masked = rco(&options, &observe(4, Some(&[true, true, true, false])));
    let without = rco(&options, &observe(3, None));
    assert!(close(masked.baseline, without.baseline, 1e-12) && masked.gradient[3] == 0.0);
    let scaled: Vec<f64> = without.gradient.iter().map(|gradient| gradient * 0.75).collect();
    assert!(all_close(&masked.gradient[..3], &scaled, 1e-12));
    let none = rco(&options, &observe(4, Some(&[false; 4])));
    assert_eq!((none.loss, none.gradient), (0.0, vec![0.0; 4]));
}

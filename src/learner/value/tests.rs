#![allow(clippy::unwrap_used)]

use super::*;

const ADAM: Adam = Adam { rate: 0.01, beta1: 0.9, beta2: 0.99, epsilon: 1e-8 };
const BETA: f64 = 0.3;

/// Two prompts that end in different hidden states, with critiques of different worth.
fn prompts() -> [(Vec<f32>, [f32; 3], [f32; 3]); 2] {
    let hidden = |sign: f32| (0..8).map(|i| sign * (i as f32 - 3.0)).collect();
    [(hidden(1.0), [0.0, 0.25, 0.5], [0.3, -0.2, 0.1]), (hidden(-1.0), [0.75, 1.0, 0.5], [0.0, 0.4, -0.1])]
}

fn learn(value: &mut Value, steps: usize) -> f64 {
    let mut loss = 0.0;
    for _ in 0..steps {
        loss = prompts()
            .iter()
            .map(|(hidden, utilities, ratios)| value.gather(hidden, utilities, BETA, ratios, 0.5))
            .sum();
        value.update(ADAM);
    }
    loss
}

fn restored(value: &Value) -> Value {
    let mut tensors: std::collections::HashMap<_, _> = value.tensors().into_iter().collect();
    Value::restore(8, 16, &mut |name| tensors.remove(name)).unwrap()
}

#[test]
fn a_gradient_is_the_slope_of_the_loss() {
    let mut value = Value::new(8, 16, 1);
    learn(&mut value, 20);
    value.discard();
    let (hidden, utilities, ratios) = &prompts()[0];
    let loss = |value: &Value| value.clone().gather(hidden, utilities, BETA, ratios, 1.0);
    value.gather(hidden, utilities, BETA, ratios, 1.0);
    for tensor in 0..4 {
        for index in 0..value.weights[tensor].data.len().min(11) {
            let moved = |by: f32| {
                let mut other = value.clone();
                other.weights[tensor].data[index] += by;
                (loss(&other), f64::from(other.weights[tensor].data[index]))
            };
            let ((up, high), (down, low)) = (moved(1e-2), moved(-1e-2));
            let (slope, got) = ((up - down) / (high - low), f64::from(value.weights[tensor].gradient[index]));
            assert!((slope - got).abs() < 1e-4 * slope.abs().max(1e-1), "{tensor}.{index}: {got} for {slope}");
        }
    }
}

#[test]
fn learns_each_prompts_mean_of_what_its_critiques_are_worth() {
    let mut value = Value::new(8, 16, 1);
    assert_eq!(value.predict(&prompts()[0].0), 0.0);
    learn(&mut value, 600);
    for (hidden, utilities, ratios) in prompts() {
        let worth = utilities.iter().zip(&ratios).map(|(&u, &r)| f64::from(u) - BETA * f64::from(r)).sum::<f64>() / 3.0;
        assert!((value.predict(&hidden) - worth).abs() < 1e-3, "{} for {worth}", value.predict(&hidden));
    }
}

#[test]
fn a_restored_network_goes_on_bit_for_bit() {
    let mut straight = Value::new(8, 16, 1);
    learn(&mut straight, 5);
    let mut resumed = restored(&straight);
    assert_eq!(learn(&mut straight, 5), learn(&mut resumed, 5));
    assert_eq!(straight.tensors(), resumed.tensors());
}

#[test]
fn what_is_forgotten_leaves_no_trace() {
    let (mut once, mut twice) = (Value::new(8, 16, 1), Value::new(8, 16, 1));
    let (hidden, utilities, ratios) = &prompts()[0];
    twice.gather(hidden, utilities, BETA, ratios, 1.0);
    twice.discard();
    learn(&mut once, 2);
    learn(&mut twice, 2);
    assert_eq!(once.tensors(), twice.tensors());
}

#[test]
fn a_state_of_another_size_is_refused() {
    let mut tensors: std::collections::HashMap<_, _> = Value::new(8, 16, 1).tensors().into_iter().collect();
    let error = Value::restore(8, 12, &mut |name| tensors.remove(name)).unwrap_err();
    assert!(error.to_string().contains("value.hidden.weight"), "{error}");
}

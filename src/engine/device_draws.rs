//! What a GPU draws, against the sampler on the logits that the GPU gives for the same rows.
#![allow(clippy::unwrap_used)]

use super::sampler::{self, SamplingConfig, Scratch};
use crate::kernels::PassPrecisions;
use crate::transformer::decode::{Batch, Decoder, Forward, RowSampling};
use crate::transformer::device::DeviceChoice;
use crate::transformer::load::load_on;
use std::path::Path;

fn config(temperature: f32, top_k: usize, top_p: f32, min_p: f32) -> SamplingConfig {
    SamplingConfig { temperature, top_k, top_p, min_p, ..SamplingConfig::greedy(1) }
}

#[test]
fn tokens_drawn_on_the_device_are_those_that_the_sampler_draws() {
    let device = DeviceChoice::Cuda(0).open().expect("a GPU, or scripts/cuda-emulate");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny_llama");
    let model = load_on(&model, &device, PassPrecisions::F32).unwrap().transformer;
    let mut decoder = Decoder::new(model, 8).unwrap();
    assert!(decoder.draws());
    let configs = [
        config(0.0, 0, 1.0, 0.0),
        config(1.0, 0, 1.0, 0.0),
        config(0.3, 0, 1.0, 0.0),
        config(1.3, 20, 1.0, 0.0),
        config(1.0, 0, 0.6, 0.0),
        config(1.0, 0, 1.0, 0.2),
        config(0.9, 50, 0.8, 0.1),
        config(2.0, 1, 0.5, 0.0),
    ];
    let prompts: Vec<Vec<u32>> =
        (0..4u32).map(|row| (0..5 + row).map(|at| (row * 31 + at * 17) % 250).collect()).collect();
    let numbers: Vec<f64> = (0..25).map(|n| sampler::uniform(3, n, 0)).collect();
    let (mut asked, mut drawn, mut plain) = (Batch::default(), Batch::default(), Vec::new());
    for (table, prompt) in (0u32..).zip(&prompts) {
        asked.push(prompt, 0, &[table], None, 1);
        drawn.push(prompt, 0, &[table], None, 1);
        let samplings = configs.iter().flat_map(|config| numbers.iter().map(move |&uniform| (config, uniform)));
        drawn.draw(samplings.map(|(config, uniform)| {
            let &SamplingConfig { temperature, top_k, top_p, min_p, .. } = config;
            RowSampling { row: 0, uniform, temperature, top_k, top_p, min_p }
        }));
    }
    decoder.step(&asked, &mut plain).unwrap();
    let mut none = Vec::new();
    let got = decoder.step(&drawn, &mut none).unwrap();
    assert!(none.is_empty(), "no logits leave the device");
    let vocab = decoder.vocab();
    let rows = plain.chunks_exact(vocab);
    let wanted = rows.flat_map(|row| configs.iter().flat_map(move |config| std::iter::repeat_n((row, config), 25)));
    let (mut same, mut all) = (0, 0);
    for (got, ((row, config), &uniform)) in got.iter().zip(wanted.zip(numbers.iter().cycle())) {
        let (got, wanted) = (got.unwrap(), sampler::draw(row, config, uniform, &mut Scratch::default()).unwrap());
        all += 1;
        // The two sum in other orders: at the edge of an id's share either neighbour may be drawn.
        same += usize::from(got.id == wanted.id);
        if got.id == wanted.id {
            assert!((got.log_prob - wanted.log_prob).abs() < 1e-4, "{config:?}: {got:?}, expected {wanted:?}");
        }
    }
    assert_eq!(all, 4 * configs.len() * 25);
    assert!(same * 200 >= all * 199, "{same} of {all} tokens are those of the sampler");
}

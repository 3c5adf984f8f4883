//! Where top-k, top-p and min-p cut a row of weights.
//!
//! Whatever they leave is what lies above one border: a weight, and among its equals an id. The border is
//! found without sorting the row: weights are counted into buckets by the first bits of their f32, which
//! order them, and only the bucket that the border goes through is looked into.

use super::sampler::SamplingConfig;

/// First bits of a weight in `[0, 1]`: exponent and three bits of the mantissa.
const BUCKET_SHIFT: u32 = 20;
/// The bucket of weight 1 is the last.
const BUCKETS: usize = (1.0f32.to_bits() >> BUCKET_SHIFT) as usize + 1;

/// The least likely id that stays: what weighs more stays too, and of its equals those of lower ids.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Border {
    pub(crate) weight: f32,
    pub(crate) id: u32,
}

impl Border {
    /// Whichever cuts more.
    fn tighter(self, other: Self) -> Self {
        let order = self.weight.total_cmp(&other.weight).then(other.id.cmp(&self.id));
        if order.is_lt() { other } else { self }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    mass: f64,
    count: usize,
}

/// Weights of one row, relative to the likeliest, and what it takes to cut them.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    pub(crate) weights: Vec<f32>,
    buckets: Vec<Bucket>,
    /// The bucket that a border goes through, the likeliest first as far as needed.
    inside: Vec<(u32, f32)>,
}

impl Cut {
    /// The border of what `config` leaves of the weights, whose sum is `total`. At least the likeliest stays.
    pub(crate) fn border(&mut self, config: &SamplingConfig, total: f64) -> Border {
        let mut border = Border { weight: config.min_p, id: u32::MAX };
        let top_k = (1..self.weights.len()).contains(&config.top_k);
        if top_k || config.top_p < 1.0 {
            self.count();
        }
        let mut mass = total;
        if top_k {
            let (last, kept) = self.by_count(config.top_k);
            border = border.tighter(last);
            mass = kept;
        }
        if config.top_p < 1.0 {
            let last = self.by_mass(f64::from(config.top_p) * mass);
            border = last.map_or(border, |last| border.tighter(last));
        }
        border
    }

    fn bucket(weight: f32) -> usize {
        ((weight.to_bits() >> BUCKET_SHIFT) as usize).min(BUCKETS - 1)
    }

    fn count(&mut self) {
        self.buckets.clear();
        self.buckets.resize(BUCKETS, Bucket::default());
        for &weight in &self.weights {
            let bucket = &mut self.buckets[Self::bucket(weight)];
            bucket.mass += f64::from(weight);
            bucket.count += 1;
        }
    }

    /// The bucket, from the likeliest down, in which `enough` is reached, and what lies above it.
    fn reached(&self, enough: impl Fn(Bucket) -> bool) -> Option<(usize, Bucket)> {
        let mut above = Bucket::default();
        for (index, bucket) in self.buckets.iter().enumerate().rev() {
            let with = Bucket { mass: above.mass + bucket.mass, count: above.count + bucket.count };
            if enough(with) {
                return Some((index, above));
            }
            above = with;
        }
        None
    }

    fn look_inside(&mut self, bucket: usize) {
        self.inside.clear();
        let of_bucket = self.weights.iter().enumerate().filter(|&(_, &weight)| Self::bucket(weight) == bucket);
        self.inside.extend(of_bucket.map(|(id, &weight)| (id as u32, weight)));
    }

    /// The `k`-th likeliest, and the mass of the first `k`; there are more than `k`.
    fn by_count(&mut self, k: usize) -> (Border, f64) {
        let (bucket, above) = self.reached(|sum| sum.count >= k).expect("the buckets hold more than k weights");
        self.look_inside(bucket);
        let place = k - above.count - 1;
        let (before, &mut (id, weight), _) = self.inside.select_nth_unstable_by(place, likelier);
        let mass: f64 = before.iter().map(|&(_, weight)| f64::from(weight)).sum();
        (Border { weight, id }, above.mass + mass + f64::from(weight))
    }

    /// The last of the fewest of the likeliest that hold `mass`: halves the bucket towards the border by
    /// selection, so that only a few are sorted. None where rounding leaves less than `mass` in all.
    fn by_mass(&mut self, mass: f64) -> Option<Border> {
        let (bucket, above) = self.reached(|sum| sum.mass >= mass)?;
        self.look_inside(bucket);
        let (mut sum, mut low, mut high) = (above.mass, 0, self.inside.len());
        while high - low > 32 {
            let half = (high - low) / 2;
            self.inside[low..high].select_nth_unstable_by(half, likelier);
            let more: f64 = self.inside[low..low + half].iter().map(|&(_, weight)| f64::from(weight)).sum();
            if sum + more >= mass {
                high = low + half;
            } else {
                sum += more;
                low += half;
            }
        }
        self.inside[low..high].sort_unstable_by(likelier);
        let reaches = |&&(_, weight): &&(u32, f32)| {
            sum += f64::from(weight);
            sum >= mass
        };
        // The sums of a bucket and of its parts may differ by their rounding.
        let last = self.inside[low..high].iter().find(reaches).or(self.inside[..high].last());
        last.map(|&(id, weight)| Border { weight, id })
    }
}

/// The likelier first, the lower id first among equals.
fn likelier(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

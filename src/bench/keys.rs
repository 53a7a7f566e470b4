//! Which key comes next.

use rand::distr::Distribution as _;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use rand_distr::Zipf;

use crate::bench::plan::{Distribution, Plan};

/// An endless, repeatable sequence of choices: keys, sizes, set or get.
#[derive(Debug)]
pub struct Choices {
    random: SmallRng,
    keys: u64,
    zipf: Option<Zipf<f64>>,
    /// Next key and step, for plans that go through the keys in order.
    in_order: Option<(u64, u64)>,
    set_share: f64,
}

impl Choices {
    /// The choices of thread `index` of `threads`.
    pub fn new(plan: &Plan, index: usize, threads: usize) -> Self {
        let zipf = match plan.distribution {
            Distribution::Uniform => None,
            // Refused parameters were refused when the flag was parsed, and keys is at least 1.
            Distribution::Zipf(theta) => Zipf::new(plan.keys as f64, theta).ok(),
        };
        Self {
            random: SmallRng::seed_from_u64(plan.seed ^ (index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            keys: plan.keys,
            zipf,
            in_order: plan.in_order.then_some((index as u64, threads as u64)),
            set_share: plan.sets / 100.0,
        }
    }

    /// Number of the next key, below the number of keys.
    pub fn key(&mut self) -> u64 {
        if let Some((next, step)) = &mut self.in_order {
            let key = *next % self.keys;
            *next += *step;
            return key;
        }
        match &self.zipf {
            None => self.random.random_range(0..self.keys),
            Some(zipf) => (zipf.sample(&mut self.random) as u64 - 1).min(self.keys - 1),
        }
    }

    /// Whether the next request is a set.
    pub fn is_set(&mut self) -> bool {
        self.set_share >= 1.0 || (self.set_share > 0.0 && self.random.random::<f64>() < self.set_share)
    }

    /// A number between 0 and 1.
    pub fn point(&mut self) -> f64 {
        self.random.random()
    }
}

/// Bytes that do not compress, for values.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    SmallRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

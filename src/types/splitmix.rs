//! SplitMix64's mixing function (Steele, Lea and Flood, OOPSLA 2014), for seeds that are functions of where they are used.

/// The increment of SplitMix64: 2^64 over the golden ratio, odd.
pub(crate) const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's finaliser, a bijection: every bit of the result depends on every bit of `bits`.
pub(crate) fn mix64(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_numbers_of_seed_0_are_those_of_java() {
        // SplittableRandom(0): its state goes up by the gamma before each number.
        let first = [1u64, 2, 3].map(|n| mix64(n.wrapping_mul(GOLDEN_GAMMA)));
        assert_eq!(first, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
    }
}

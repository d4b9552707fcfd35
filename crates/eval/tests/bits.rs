//! Figures in bits per dimension against recorded ones.

mod common;

use common::{cases, greatest};
use langevin_eval::bits::{Likelihoods, Unit};

/// What log p is in bits per dimension: of densities, and of pixels of 256 levels that the model takes in [-1, 1] or [0, 1].
#[test]
fn reference_metrics_likelihood() {
    for case in cases("metrics/likelihood") {
        let (log_p, d) = (case.tensor("log_p0"), case.tensor("x0").len() / case.tensor("log_p0").len());
        let plain = Unit::BitsPerDim { range: 256. };
        let mut off = vec![];
        for (log_p, bits) in [("log_p0", "bits_per_dim"), ("ode_log_likelihood", "ode_bits_per_dim")] {
            let (log_p, bits) = (case.tensor(log_p), case.tensor(bits));
            assert_eq!(log_p.len(), bits.len());
            off.extend(log_p.iter().zip(bits).map(|(&log_p, bits)| (plain.of(log_p, d) - bits).abs()));
        }
        let all = Likelihoods { log_p, own: 0., shared: 0. };
        let pixels = &case.json["mean_bits_per_dim_8bit"];
        for (range, theirs) in [
            (256., &case.json["mean_bits_per_dim"]),
            (2., &pixels["data_scaled_to_minus1_1"]),
            (1., &pixels["data_scaled_to_0_1"]),
        ] {
            let figure = all.figure(Unit::BitsPerDim { range }, d);
            off.push((figure.mean - theirs.as_f64().expect("a mean in case.json")).abs());
        }
        assert!(greatest(off) < 1e-12, "{}", case.name);
    }
}

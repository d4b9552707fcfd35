//! How well a score tells two sets apart: the ROC curve, AUROC, average precision, FPR at a TPR, and their intervals.
//!
//! AUROC = (#{pos > neg} + 1/2 #{pos = neg}) / (n_pos n_neg), its variance by \[DeLong88\]; average precision
//! sum_k (R_k - R_{k-1}) P_k over the distinct thresholds, from the highest, as scikit-learn has it.
//!
//! With r = n_neg / n_pos, R uniform over the positive samples from the highest down and F the part of the negative ones that
//! score no lower, average precision is at least A = the integral of R / (R + r F) over R, where F grows with R and is
//! b = P(neg >= pos) on average. R / (R + y) lies above its tangent at y + R = sqrt(R (R + a)), whose slope -1 / (R + a) is
//! steepest at R = 0: no F loses more by it than the constant b. So 1 - A is at most the integral of
//! (1 - sqrt(R / (R + a)))^2 + r b / (R + a), where a = 2 r b is nearly best.

use candle_core::{DType, Device, Result, Tensor, bail};
use langevin_ops::noise::Noise;
use serde::Serialize;

/// The standard normal number that 2.5% lie above.
const Z: f64 = 1.959_963_984_540_054;
/// Part of what is repeated that falls outside an interval, on each side.
const TAIL: f64 = 0.025;

/// What average precision is at least where P(neg >= pos) is at most `b` > 0, with `r` negative samples to a positive one:
/// the head of this file; or what it is where all negative ones come first, 1 - r ln(1 + 1/r).
fn least_precision(b: f64, r: f64) -> f64 {
    let a = 2. * r * b;
    let lost = 2. - 2. * (1. + a).sqrt() + 2. * a * (1. / a).sqrt().asinh() - 0.5 * a * (1. / a).ln_1p();
    (1. - lost).max(1. - r * (1. / r).ln_1p())
}

/// All samples with one score.
#[derive(Clone, Copy, Debug)]
struct Group {
    score: f64,
    positive: u32,
    negative: u32,
}

/// Two sets of scores; the higher a score, the more positive its sample.
#[derive(Clone, Debug)]
pub struct Roc {
    groups: Vec<Group>, // from the highest score down
    positive: usize,
    negative: usize,
}

/// A point of the ROC curve: samples whose score is `threshold` or more are taken for positive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Infinite at the first point, where no sample is.
    pub threshold: f64,
    /// The part of the negative samples that is taken for positive.
    pub fpr: f64,
    /// The part of the positive samples that is.
    pub tpr: f64,
}

/// Where the true value lies, with 95% confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Roc {
    /// Errors if a set is empty, or a score is not a number; infinite scores are welcome.
    pub fn new(positive: &[f64], negative: &[f64]) -> Result<Self> {
        if positive.is_empty() || negative.is_empty() {
            bail!("roc: {} positive and {} negative scores; give some of each", positive.len(), negative.len());
        }
        if positive.iter().chain(negative).any(|score| score.is_nan()) {
            bail!("roc: a score is not a number; give numbers, infinite ones for what is beyond all others");
        }
        let mut all: Vec<(f64, bool)> = positive.iter().map(|&score| (score, true)).collect();
        all.extend(negative.iter().map(|&score| (score, false)));
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let groups = all.chunk_by(|a, b| a.0 == b.0).filter_map(|same| {
            let positive = same.iter().filter(|(_, positive)| *positive).count() as u32;
            Some(Group { score: same.first()?.0, positive, negative: same.len() as u32 - positive })
        });
        Ok(Self { groups: groups.collect(), positive: positive.len(), negative: negative.len() })
    }

    /// Groups with, of each set, the part that has a higher score and the part in the group.
    fn parts(&self) -> impl Iterator<Item = (&Group, [f64; 2], [f64; 2])> {
        let (m, n) = (self.positive as f64, self.negative as f64);
        self.groups.iter().scan([0u32; 2], move |above, group| {
            let before = [f64::from(above[0]) / m, f64::from(above[1]) / n];
            *above = [above[0] + group.positive, above[1] + group.negative];
            Some((group, before, [f64::from(group.positive) / m, f64::from(group.negative) / n]))
        })
    }

    /// The chance that a positive sample has a higher score than a negative one; an equal score counts half.
    pub fn auroc(&self) -> f64 {
        // twice the number of pairs in order, as whole numbers: sets that do not overlap give exactly 1
        let (mut above, mut twice) = (0u64, 0u64);
        for group in &self.groups {
            let (positive, negative) = (u64::from(group.positive), u64::from(group.negative));
            let below = self.negative as u64 - above - negative;
            twice += positive * (2 * below + negative);
            above += negative;
        }
        twice as f64 / (2. * self.positive as f64 * self.negative as f64)
    }

    /// Average precision, without interpolation: equal scores enter together.
    pub fn average_precision(&self) -> f64 {
        let (mut positive, mut all, mut sum) = (0., 0., 0.);
        for group in &self.groups {
            let here = f64::from(group.positive);
            positive += here;
            all += here + f64::from(group.negative);
            // a group of a resample may be empty, and then all before it
            sum += if here > 0. { here * positive / all } else { 0. };
        }
        sum / self.positive as f64
    }

    /// FPR at the highest threshold at which the TPR is at least `tpr`.
    pub fn fpr_at(&self, tpr: f64) -> f64 {
        self.threshold_at(tpr).fpr
    }

    /// The point with the highest threshold at which the TPR is at least `tpr`.
    pub fn threshold_at(&self, tpr: f64) -> Point {
        let mut last = Point { threshold: f64::INFINITY, fpr: 0., tpr: 0. };
        for point in self.curve() {
            last = point;
            if point.tpr >= tpr {
                break;
            }
        }
        last
    }

    /// The curve, a point for each distinct score, after the one at (0, 0).
    pub fn curve(&self) -> Vec<Point> {
        let (m, n) = (self.positive as f64, self.negative as f64);
        let (mut positive, mut negative) = (0, 0);
        let of = |group: &Group| {
            positive += group.positive;
            negative += group.negative;
            Point { threshold: group.score, fpr: f64::from(negative) / n, tpr: f64::from(positive) / m }
        };
        let start = Point { threshold: f64::INFINITY, fpr: 0., tpr: 0. };
        std::iter::once(start).chain(self.groups.iter().map(of)).collect()
    }

    /// The standard error of [`Roc::auroc`]: sqrt(S10 / n_pos + S01 / n_neg), S10 the variance over positive samples of
    /// the part of the negative ones below them, S01 the other way round; NaN below two samples of either. \[DeLong88\]
    pub fn auroc_error(&self) -> f64 {
        let (auroc, mut over_positive, mut over_negative) = (self.auroc(), 0., 0.);
        for (group, [above_positive, above_negative], [equal_positive, equal_negative]) in self.parts() {
            let below = 1. - above_negative - equal_negative / 2.;
            let above = above_positive + equal_positive / 2.;
            over_positive += f64::from(group.positive) * (below - auroc).powi(2);
            over_negative += f64::from(group.negative) * (above - auroc).powi(2);
        }
        let of = |sum: f64, n: usize| if n < 2 { f64::NAN } else { sum / (n as f64 - 1.) / n as f64 };
        (of(over_positive, self.positive) + of(over_negative, self.negative)).sqrt()
    }

    /// The interval of [`Roc::auroc`] by its standard error; all of [0, 1] below two samples of either set.
    ///
    /// Where the sets do not overlap that is 0. The k = min(n_pos, n_neg) disjoint pairs, all in order by the chance
    /// AUROC^k, then still say that AUROC is at least 0.025^(1/k).
    pub fn auroc_interval(&self) -> Interval {
        let (auroc, pairs) = (self.auroc(), self.positive.min(self.negative) as f64);
        let least = TAIL.powf(1. / pairs);
        match auroc {
            _ if pairs < 2. => Interval { low: 0., high: 1. },
            1. => Interval { low: least, high: 1. },
            0. => Interval { low: 0., high: 1. - least },
            _ => {
                let reach = Z * self.auroc_error();
                Interval { low: (auroc - reach).max(0.), high: (auroc + reach).min(1.) }
            }
        }
    }

    /// The interval of [`Roc::fpr_at`] by [`Roc::bootstrap`]; where no resample differs from 0 or 1, that of a share of
    /// which n_neg draws showed nothing.
    pub fn fpr_interval(&self, tpr: f64, times: usize, noise: &mut Noise) -> Result<Interval> {
        let interval = self.bootstrap(|roc| roc.fpr_at(tpr), times, noise)?;
        let least = TAIL.powf(1. / self.negative as f64);
        Ok(match (interval.low, interval.high) {
            (0., 0.) => Interval { low: 0., high: 1. - least },
            (1., 1.) => Interval { low: least, high: 1. },
            _ => interval,
        })
    }

    /// The interval of [`Roc::average_precision`], of sets in the proportion of these, by [`Roc::bootstrap`]; all of [0, 1]
    /// below two samples of either set. It is a little narrow: of 150 and 150 samples it held the truth 92 times of 100.
    ///
    /// Where all positive samples come first every resample says 1. The k = min(n_pos, n_neg) disjoint pairs then still say
    /// that P(neg >= pos) is at most 1 - 0.025^(1/k), as for [`Roc::auroc_interval`], and average precision at least what the
    /// head of this file makes of that. Where all come last every resample says the same too: P(neg > pos) is at least
    /// 0.025^(1/k), and a positive sample below all negative ones has a precision of n_pos / (n_pos + n_neg) at most.
    pub fn average_precision_interval(&self, times: usize, noise: &mut Noise) -> Result<Interval> {
        let pairs = self.positive.min(self.negative) as f64;
        let (unseen, r) = (1. - TAIL.powf(1. / pairs), self.negative as f64 / self.positive as f64);
        Ok(match self.auroc() {
            _ if pairs < 2. => Interval { low: 0., high: 1. },
            1. => Interval { low: least_precision(unseen, r), high: 1. },
            0. => Interval { low: least_precision(1., r), high: unseen + (1. - unseen) / (1. + r) },
            _ => self.bootstrap(Self::average_precision, times, noise)?,
        })
    }

    /// The interval of any `statistic`: between the percentiles 2.5 and 97.5 of `times` resamples of each set, drawn with
    /// replacement by the one stream of `noise`. \[Efron 1979\]
    pub fn bootstrap(&self, statistic: impl Fn(&Self) -> f64, times: usize, noise: &mut Noise) -> Result<Interval> {
        let of = |count: fn(&Group) -> u32| -> Vec<usize> {
            let repeated = |(i, group): (usize, &Group)| std::iter::repeat_n(i, count(group) as usize);
            self.groups.iter().enumerate().flat_map(repeated).collect()
        };
        let (positive, negative) = (of(|group| group.positive), of(|group| group.negative)); // the group of each sample
        let blank = Tensor::zeros((1, positive.len() + negative.len()), DType::F64, &Device::Cpu)?;
        let mut values = Vec::with_capacity(times);
        let mut drawn = self.clone();
        for _ in 0..times {
            drawn.groups.iter_mut().for_each(|group| (group.positive, group.negative) = (0, 0));
            let u: Vec<f64> = noise.uniform_like(&blank)?.flatten_all()?.to_vec1()?;
            let (for_positive, for_negative) = u.split_at(positive.len());
            let pick = |of: &[usize], u: f64| of.get((u * of.len() as f64) as usize).copied();
            for &u in for_positive {
                pick(&positive, u).and_then(|i| drawn.groups.get_mut(i)).into_iter().for_each(|g| g.positive += 1);
            }
            for &u in for_negative {
                pick(&negative, u).and_then(|i| drawn.groups.get_mut(i)).into_iter().for_each(|g| g.negative += 1);
            }
            values.push(statistic(&drawn));
        }
        values.sort_by(f64::total_cmp);
        let at = |q: f64| values.get((q * (times.max(1) - 1) as f64).round() as usize).copied().unwrap_or(f64::NAN);
        Ok(Interval { low: at(TAIL), high: at(1. - TAIL) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The integral of R / (R + r F) over R, for F of steps: (where, how high).
    fn precision(steps: &[(f64, f64)], r: f64) -> f64 {
        let ends = steps.iter().skip(1).map(|step| step.0).chain([1.]);
        let part = |(&(from, f), to): (&(f64, f64), f64)| {
            let y = r * f;
            to - from - if y > 0. { y * ((to + y) / (from + y)).ln() } else { 0. }
        };
        steps.iter().zip(ends).map(part).sum()
    }

    #[test]
    fn no_scores_have_less_precision_than_the_least() {
        for (b, r) in [(1e-4, 1.), (0.012, 1.), (0.1, 0.3), (0.3, 1.), (0.05, 10.), (0.5, 2.), (0.9, 1.)] {
            let (least, even) = (least_precision(b, r), precision(&[(0., b)], r));
            // the same F everywhere is nearly the worst, as long as few come first
            assert!(least < even && even - least < 0.12 * r * b, "{b} {r}: {least} {even}");
            for i in 0..40 {
                for j in i..40 {
                    // three steps of mean b, of which the first is 0
                    let (from, then) = (0.025 * f64::from(i), 0.025 * f64::from(j));
                    for share in [0., 0.2, 0.5, 0.8, 1.] {
                        let (low, more) = (share * b / (1. - from), (1. - share) * b / (1. - then));
                        if low + more <= 1. {
                            let of = precision(&[(0., 0.), (from, low), (then, low + more)], r);
                            assert!(of >= least, "{b} {r}: {of} below {least}");
                        }
                    }
                }
            }
        }
        assert!((least_precision(1., 1.) - 1. + 2f64.ln()).abs() < 1e-12);
    }
}

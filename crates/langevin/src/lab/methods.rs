//! The methods that the lab compares, each with the options that it has there.

use super::counted::Counted;
use langevin_dynamics::mcmc::{AnyKernel, Langevin};
use langevin_dynamics::process::Edm;
use langevin_models::mlp::MlpConfig;
use langevin_models::{DensitySpec, Form, MlpEnergyConfig, ModelSpec};
use langevin_train::level::LogSnr;
use langevin_train::{
    AnyObjective, ConditionalNce, ContrastiveDivergence, Denoising, DenoisingScoreMatching, Divergence, Dual,
    EnergyDiscrepancy, InfoNce, Nce, Objective, ScoreMatching,
};

/// A way to learn a density.
pub struct Method {
    /// What it is called.
    pub name: &'static str,
    /// What it is called in full.
    pub title: &'static str,
    /// How it is set here.
    pub about: &'static str,
    /// Highest learning rate.
    pub rate: f64,
    pub(super) learns: Learns,
}

/// What is learnt, of which model.
pub(super) enum Learns {
    /// The network energy that all of them share.
    Energy(fn() -> Box<dyn Objective<Counted>>),
    /// An energy of noisy data at all noise levels.
    Noisy(fn() -> (ModelSpec, AnyObjective)),
}

/// The energy that those without noise levels learn.
pub(super) fn energy() -> DensitySpec {
    DensitySpec::new([2], MlpEnergyConfig::default())
}

/// An energy of noisy data, of a network of much the same size.
fn noisy() -> ModelSpec {
    let net = MlpConfig { width: 128, layers: 2, dropout: 0. };
    ModelSpec::energy([2]).net(net).process(Edm { sigma_min: 0.01, sigma_max: 10. }).sigma_data(1.)
}

fn chains(k: usize, persistent: usize) -> Box<dyn Objective<Counted>> {
    let kernel: AnyKernel = Langevin { step: 0.01 }.into();
    Box::new(ContrastiveDivergence { k, persistent, kernel, ..ContrastiveDivergence::default() })
}

fn scores(divergence: Divergence) -> Box<dyn Objective<Counted>> {
    Box::new(ScoreMatching { divergence, slices: 1 })
}

// Highest learning rates, at which each kind of loss learns eight Gaussians in 20 seconds. At 2e-3 persistent chains run away, at 1e-2
// score matching loses modes and conditional NCE its density, and at 2e-3 the other contrasts with noise know no more than a ring.
const CHAINS: f64 = 1e-3;
const SCORES: f64 = 2e-3;
const NEAR: f64 = 4e-3;
const NOISE: f64 = 1e-2;

/// All of them, in order.
pub fn all() -> Vec<Method> {
    use Learns::{Energy, Noisy};
    let of = |(name, title, about, rate, learns)| Method { name, title, about, rate, learns };
    [
        ("cd", "contrastive divergence", "5 Langevin steps from the data", CHAINS, Energy(|| chains(5, 0))),
        ("pcd", "persistent CD", "5 Langevin steps of 128 persistent chains", CHAINS, Energy(|| chains(5, 128))),
        ("sm", "score matching", "the divergence of the score exact", SCORES, Energy(|| scores(Divergence::Exact))),
        ("ssm", "sliced score matching", "along one random direction", SCORES, Energy(|| scores(Divergence::Sliced))),
        (
            "ssm-vr",
            "sliced, reduced variance",
            "along one random direction, beside the whole score",
            SCORES,
            Energy(|| scores(Divergence::SlicedVarianceReduced)),
        ),
        (
            "dsm",
            "denoising score matching",
            "at one noise level, 0.1",
            SCORES,
            Energy(|| Box::new(DenoisingScoreMatching::default())),
        ),
        (
            "nce",
            "noise-contrastive",
            "log Z a parameter, one sample of noise each",
            NOISE,
            Energy(|| Box::new(Nce::default())),
        ),
        (
            "cnce",
            "conditional NCE",
            "one sample each moved by noise of 0.3",
            NEAR,
            Energy(|| Box::new(ConditionalNce { sigma: 0.3, ..ConditionalNce::default() })),
        ),
        (
            "info-nce",
            "ranking NCE (InfoNCE)",
            "among four samples of noise",
            NOISE,
            Energy(|| Box::new(InfoNce { ratio: 4, ..InfoNce::default() })),
        ),
        (
            "ed",
            "energy discrepancy",
            "four states moved there and back, t = 0.25",
            NOISE,
            Energy(|| Box::new(EnergyDiscrepancy { samples: 4, ..EnergyDiscrepancy::default() })),
        ),
        (
            "diffusion",
            "diffusion",
            "denoising at all noise levels, asked at 0.01",
            SCORES,
            Noisy(|| (noisy(), Denoising::default().into())),
        ),
        (
            "dual",
            "dual score matching",
            "at all noise levels, with log Z, asked at 0.01",
            SCORES,
            Noisy(|| {
                let loss = Dual { level: LogSnr::default().into(), ..Dual::default() };
                (noisy().form(Form::NoiseNorm).normalised(), loss.into())
            }),
        ),
    ]
    .map(of)
    .into()
}

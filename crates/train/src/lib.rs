//! Objectives, noise levels, optimisers, EMA, the training loop and its resumable state.
//!
//! A [`Trainer`] moves anything [`Trainable`]: models that denoise by an [`AnyObjective`], densities by an [`AnyDensityObjective`].
//!
//! Sources, by the keys that the files use (those of `langevin-dynamics` beside):
//! - \[Kingma14\] Adam: a method for stochastic optimization, 1412.6980
//! - \[Loshchilov17\] SGDR: stochastic gradient descent with warm restarts, 1608.03983
//! - \[Loshchilov19\] Decoupled weight decay regularization, 1711.05101
//! - \[Sutskever13\] On the importance of initialization and momentum in deep learning, ICML 2013
//! - \[Karras24\] Analyzing and improving the training dynamics of diffusion models (EDM2), 2312.02696
//! - \[Song21b\] Maximum likelihood training of score-based diffusion models, 2101.09258
//! - \[Hang23\] Efficient diffusion training via min-SNR weighting, 2303.09556
//! - \[Esser24\] Scaling rectified flow transformers (Stable Diffusion 3), 2403.03206
//! - \[Kingma21\] Variational diffusion models, 2107.00630
//! - \[Thornton25\] Composition and control with distilled energy diffusion models and sequential Monte Carlo, 2502.12786
//! - \[Lai23\] FP-Diffusion: improving score-based diffusion models by enforcing the underlying score Fokker-Planck equation,
//!   2210.04296
//! - \[Plainer25\] Consistent sampling and simulation: molecular dynamics with energy-based diffusion models, 2506.17139
//! - \[Guth25\] Learning normalized image densities via dual score matching, 2506.05310
//! - \[Hyvarinen05\] Estimation of non-normalized statistical models by score matching, JMLR 6
//! - \[Song19b\] Sliced score matching: a scalable approach to density and score estimation, 1905.07088
//! - \[Gutmann10\] Noise-contrastive estimation: a new estimation principle for unnormalized statistical models, AISTATS 2010
//! - \[Gutmann12\] Noise-contrastive estimation of unnormalized statistical models, JMLR 13
//! - \[Ceylan18\] Conditional noise-contrastive estimation of unnormalised models, 1806.03664
//! - \[Ma18\] Noise contrastive estimation and negative sampling for conditional models, 1809.01812
//! - \[Oord18\] Representation learning with contrastive predictive coding, 1807.03748
//! - \[Schroeder23\] Energy discrepancies: a score-independent loss for energy-based models, 2307.06431
//! - \[Tieleman08\] Training restricted Boltzmann machines using approximations to the likelihood gradient, ICML 2008
//! - \[Tieleman09\] Tieleman and Hinton, Using fast weights to improve persistent contrastive divergence, ICML 2009
//! - \[Salakhutdinov09\] Salakhutdinov and Hinton, Deep Boltzmann machines, AISTATS 2009
//! - \[Desjardins10\] Tempered Markov chain Monte Carlo for training of restricted Boltzmann machines, AISTATS 2010
//! - \[Montavon12\] Deep Boltzmann machines and the centering trick
//! - \[Melchior16\] How to center deep Boltzmann machines, JMLR 17
//! - \[Wichura88\] Algorithm AS 241: the percentage points of the normal distribution

pub mod ema;
mod inplace;
pub mod level;
pub mod objective;
pub mod optim;
mod options;
pub mod schedule;
mod series;
mod state;
mod trainable;
mod trainer;
pub mod weight;

pub use ema::AnyEma;
pub use inplace::Float;
pub use level::AnyLevel;
pub use objective::{
    AnyDensityObjective, AnyObjective, ConditionalNce, Context, ContrastiveDivergence, Denoising,
    DenoisingScoreMatching, Distillation, Divergence, Dual, EnergyDiscrepancy, EnergyGradient, InfoNce, Losses, Nce,
    NoiseDensity, Noisy, Objective, Part, ScoreMatching, Teacher, Training,
};
pub use optim::AnyOptimiser;
pub use options::{SecondOrder, TrainOptions};
pub use series::{Point, Series, Values};
pub use state::last_checkpoint;
pub use trainable::{Rebuild, Trainable};
pub use trainer::{StepReport, Trainer};
pub use weight::AnyWeight;

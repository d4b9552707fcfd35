//! What moves x: noise processes, parametrisations, samplers and MCMC kernels, and the exact models that test them.
//!
//! Nothing here has parameters. Time `t` grows with noise for every process, and `t = 0` is always the clean data
//! (alpha 1, sigma 0). Schedules are `f64` on the host; tensors carry images only, `[B, ...]` of any rank.
//!
//! Sources, by the keys that the files use:
//! - \[Ho20\] Denoising diffusion probabilistic models, 2006.11239
//! - \[Song21\] Score-based generative modeling through SDEs, 2011.13456
//! - \[SongDDIM\] Denoising diffusion implicit models, 2010.02502
//! - \[Nichol21\] Improved denoising diffusion probabilistic models, 2102.09672
//! - \[Salimans22\] Progressive distillation (v-prediction), 2202.00512
//! - \[Karras22\] Elucidating the design space of diffusion-based generative models, 2206.00364
//! - \[Lu22\] DPM-Solver++, 2211.01095
//! - \[Song19\] Generative modeling by estimating gradients (NCSN), 1907.05600
//! - \[Liu22\] Pseudo numerical methods for diffusion models (PNDM), 2202.09778
//! - \[Zhao23\] UniPC, 2302.04867
//! - \[Lipman23\] Flow matching for generative modeling, 2210.02747
//! - \[Liu23\] Flow straight and fast (rectified flow), 2209.03003
//! - \[Lin23\] Common diffusion noise schedules and sample steps are flawed, 2305.08891
//! - \[Saharia22\] Imagen (dynamic thresholding), 2205.11487
//! - \[HoSalimans22\] Classifier-free diffusion guidance, 2207.12598
//! - \[KarrasAuto24\] Guiding a diffusion model with a bad version of itself (autoguidance), 2406.02507
//! - \[Kynkaanniemi24\] Applying guidance in a limited interval, 2404.07724
//! - \[Lugmayr22\] RePaint: inpainting using denoising diffusion probabilistic models, 2201.09865
//! - \[Chung23\] Diffusion posterior sampling for general noisy inverse problems (DPS), 2209.14687
//! - \[Jalal21\] Robust compressed sensing MRI with deep generative priors, 2108.01368
//! - \[Song23\] Consistency models, 2303.01469
//! - \[Guth25\] Learning normalized image densities via dual score matching, 2506.05310
//! - \[Grathwohl19\] FFJORD: free-form continuous dynamics, 1810.01367
//! - \[Geman & Geman 1984\] Stochastic relaxation, Gibbs distributions, and the Bayesian restoration of images
//! - \[Neal01\] Annealed importance sampling, physics/9803008
//! - \[Burda15\] Accurate and conservative estimates of MRF log-likelihood using reverse annealing (RAISE), 1412.8566
//! - \[Grosse15\] Sandwiching the marginal likelihood using bidirectional Monte Carlo, 1511.02543
//! - \[DelMoral06\] Sequential Monte Carlo samplers, JRSS B 68(3)
//! - \[Doucet22\] Score-based diffusion meets annealed importance sampling, 2208.07698
//! - \[Bao22\] Analytic-DPM: the optimal reverse variance, 2201.06503
//! - \[Sjoberg23\] MCMC-correction of score-based diffusion models for model composition, 2307.14012
//! - \[Du23\] Reduce, reuse, recycle: compositional generation with energy-based diffusion models and MCMC, 2302.11552
//! - \[Hinton02\] Training products of experts by minimizing contrastive divergence
//! - \[Du20\] Compositional visual generation with energy based models, 2004.06030
//! - \[Thornton25\] Composition and control with distilled energy diffusion models and SMC, 2502.12786
//! - \[Vincent11\] A connection between score matching and denoising autoencoders

pub mod compose;
pub mod denoiser;
pub mod density;
pub mod exact;
pub mod grid;
pub mod inverse;
pub mod ladder;
pub mod likelihood;
pub mod mcmc;
pub mod noisy;
mod ode;
pub mod predict;
pub mod process;
pub mod sampler;
pub mod sum;
pub mod wrap;

pub use compose::Expression;
pub use denoiser::{Cond, Denoiser, Frame, Net, Potential, Preconditioned};
pub use density::{Conditionals, Density, Differentiable, Energy, Score};
pub use exact::Mixture;
pub use grid::Grid;
pub use ladder::Ladder;
pub use noisy::NoisyEnergy;
pub use predict::{Coefficients, Parametrisation};
pub use process::{Marginal, Process};
pub use sampler::Sampler;
pub use sum::Sum;
pub use wrap::{Clamped, Clip, FromEnergy, Guidance, Reframed};

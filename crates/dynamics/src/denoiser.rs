//! The one currency of diffusion models: the denoiser E[x_0 | x_t]. Noise, score and velocity are views of it.

use crate::noisy::NoisyEnergy;
use crate::predict::{Coefficients, Parametrisation};
use crate::process::Process;
use candle_core::{Result, Tensor, bail};
use langevin_ops::shape::{PerSample, combine, scale};
use langevin_ops::tape::Value;
use langevin_ops::{Conditions, grad};

/// What a network is told beside x and the time.
#[derive(Clone, Debug, Default)]
pub struct Cond {
    /// What is known of the samples, such as their class. A network refuses what it does not know.
    pub conditions: Conditions,
    /// The key of this step's dropout masks; `None` outside training: no dropout.
    pub dropout: Option<u64>,
}

impl Cond {
    /// Told the class of each sample, `[B]`, or one for all of any batch, `[1]`: u32, or what the network takes in place of
    /// numbers. `None` for a model without classes.
    pub fn class(labels: impl Into<Option<Tensor>>) -> Self {
        Self { conditions: Conditions::class(labels), dropout: None }
    }

    /// The class that is told.
    pub fn labels(&self) -> Option<&Tensor> {
        self.conditions.labels()
    }
}

/// A network F(x, c_noise, cond) with the shape of x: the raw thing that a parametrisation gives a meaning to.
pub trait Net: Send + Sync {
    /// `x` `[B, ...]`, `c_noise` `[B]` of the dtype of `x`.
    fn forward(&self, x: &Tensor, c_noise: &Tensor, cond: &Cond) -> Result<Tensor>;

    /// The same inside a larger computation on the tape. Networks that compute with values have their pass here, and
    /// `tape::run` of it as `forward`.
    fn trace(&self, x: &Value, c_noise: &Tensor, cond: &Cond) -> Result<Value> {
        Ok(Value::of(&self.forward(&x.clone().tensor()?, c_noise, cond)?))
    }

    /// The scalar whose gradient the output is; `None` for a plain network.
    fn potential(&self) -> Option<&dyn Potential> {
        None
    }
}

/// A scalar for each sample, whose gradient in x is the output of a [`Net`].
pub trait Potential: Send + Sync {
    /// `x` `[B, ...]`, `c_noise` `[B]` -> `[B]`.
    fn h(&self, x: &Tensor, c_noise: &Tensor, cond: &Cond) -> Result<Tensor>;

    /// Whether the energy knows its normaliser at every noise level, up to one constant for all of them.
    fn normalised(&self) -> bool {
        false
    }

    /// What the energy then has beyond D/2 ln(2 pi v), v the variance of x_t, as a function of the noise alone:
    /// `c_noise` `[B]` -> `[B]`.
    fn log_normaliser(&self, c_noise: &Tensor) -> Result<Tensor> {
        c_noise.zeros_like()
    }
}

/// What holds of a denoiser at every x. A wrapper returns that of its model, but for what it changes.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The process that it denoises.
    pub process: &'a dyn Process,
    /// At the end of the span p_t is N(0, sigma^2 / this): 1, but for sums of models.
    pub prior_precision: f64,
    /// True if each sample of the batch has a condition of its own, such as a class. Then evaluate the whole batch, in order,
    /// never a part of it.
    pub whole_batch: bool,
}

impl<'a> Frame<'a> {
    /// That of a single model of `process`, whose samples share their condition.
    pub fn of(process: &'a dyn Process) -> Self {
        Self { process, prior_precision: 1., whole_batch: false }
    }
}

/// A model of E[x_0 | x_t] under a process. Times are one for all samples or one a sample.
pub trait Denoiser {
    /// Its process, and what else holds at every x.
    fn frame(&self) -> Frame<'_>;

    /// The process that it denoises, of its frame.
    fn process(&self) -> &dyn Process {
        self.frame().process
    }

    /// See [`Frame::prior_precision`].
    fn prior_precision(&self) -> f64 {
        self.frame().prior_precision
    }

    /// See [`Frame::whole_batch`].
    fn whole_batch(&self) -> bool {
        self.frame().whole_batch
    }

    /// E[x_0 | x_t = x], the shape of `x`. Asked only where sigma(t) > 0.
    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor>;

    /// x0, and x0 before it was clipped: the two differ for a model that clips.
    fn x0_unclipped(&self, x: &Tensor, t: &[f64]) -> Result<(Tensor, Tensor)> {
        let x0 = self.x0(x, t)?;
        Ok((x0.clone(), x0))
    }

    /// E[eps | x_t = x] = (x - alpha x0) / sigma.
    fn eps(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        eps_from(self.process(), x, &self.x0(x, t)?, t)
    }

    /// grad log p_t(x) = (alpha x0 - x) / sigma^2. \[Vincent11\]
    fn score(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        score_from(self.process(), x, &self.x0(x, t)?, t)
    }

    /// dx/dt of the probability-flow ODE = alpha' x0 + sigma' eps; finite where alpha = 0 too. \[Song21, eq. 13\]
    fn velocity(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        velocity_from(self.process(), x, &self.x0(x, t)?, t)
    }

    /// x0 and v^T dx0/dx, both the shape of `x`; `v` has it too.
    fn x0_vjp(&self, x: &Tensor, t: &[f64], v: &Tensor) -> Result<(Tensor, Tensor)> {
        let mut value = None;
        let vjp = grad::vjp(x, v, |x| {
            let x0 = self.x0(x, t)?;
            value = Some(x0.detach());
            Ok(x0)
        })?;
        match value {
            Some(x0) => Ok((x0, vjp)),
            None => bail!("x0_vjp: the model was not asked"),
        }
    }

    /// The energy whose score this is; `None` for a model that has a score alone.
    fn noisy_energy(&self) -> Option<&dyn NoisyEnergy> {
        None
    }
}

/// `f` of the marginal at each time.
pub fn each(process: &dyn Process, t: &[f64], f: impl Fn(crate::Marginal) -> f64) -> Vec<f64> {
    t.iter().map(|&t| f(process.marginal(t))).collect()
}

/// Whether the span of `process` ends where nothing of the data is left to divide by.
pub fn reaches_pure_noise(process: &dyn Process) -> bool {
    process.marginal(process.span().1).alpha < 1e-6
}

/// eps = (x - alpha x0) / sigma.
pub fn eps_from(process: &dyn Process, x: &Tensor, x0: &Tensor, t: &[f64]) -> Result<Tensor> {
    combine(&each(process, t, |m| 1. / m.sigma), x, &each(process, t, |m| -m.alpha / m.sigma), x0)
}

/// grad log p_t(x) = (alpha x0 - x) / sigma^2.
pub fn score_from(process: &dyn Process, x: &Tensor, x0: &Tensor, t: &[f64]) -> Result<Tensor> {
    let of = |f: fn(f64, f64) -> f64| each(process, t, |m| f(m.alpha, m.sigma));
    combine(&of(|a, s| a / (s * s)), x0, &of(|_, s| -1. / (s * s)), x)
}

/// dx/dt of the probability-flow ODE, alpha' x0 + sigma' (x - alpha x0) / sigma.
pub fn velocity_from(process: &dyn Process, x: &Tensor, x0: &Tensor, t: &[f64]) -> Result<Tensor> {
    let of_x = each(process, t, |m| m.dsigma / m.sigma);
    let of_x0 = each(process, t, |m| m.dalpha - m.alpha * m.dsigma / m.sigma);
    combine(&of_x, x, &of_x0, x0)
}

/// A network under a parametrisation and a process, as a denoiser.
pub struct Preconditioned<'a> {
    net: &'a dyn Net,
    process: &'a dyn Process,
    parametrisation: &'a dyn Parametrisation,
    sigma_data: f64,
    cond: Cond,
    timesteps: Vec<(f64, f64)>,
}

impl<'a> Preconditioned<'a> {
    /// Errors if the options of the process make none, if `sigma_data` is no standard deviation, or if the span reaches
    /// alpha = 0 and the parametrisation cannot tell x0 there.
    pub fn new(
        net: &'a dyn Net,
        process: &'a dyn Process,
        parametrisation: &'a dyn Parametrisation,
        sigma_data: f64,
        cond: Cond,
    ) -> Result<Self> {
        process.check()?;
        parametrisation.check()?;
        if !(sigma_data.is_finite() && sigma_data > 0.) {
            bail!("sigma_data is {sigma_data}; it must be the standard deviation of the data, a positive number");
        }
        if !parametrisation.reaches_pure_noise() && reaches_pure_noise(process) {
            bail!(
                "{parametrisation:?} cannot tell x0 where alpha = 0, and {process:?} goes there at t = {}; use v, \
                 velocity, x0 or edm, or a process that ends before (t_max of cosine and flow)",
                process.span().1
            );
        }
        Ok(Self { net, process, parametrisation, sigma_data, cond, timesteps: vec![] })
    }

    /// The same model, whose network is told other numbers in place of c_noise: at exactly the time of the first number of a
    /// pair, the second. Schedulers that round their timesteps need it.
    pub fn with_timesteps(mut self, timesteps: Vec<(f64, f64)>) -> Self {
        self.timesteps = timesteps;
        self
    }

    /// The four numbers at `t`.
    pub fn coefficients(&self, t: f64) -> Coefficients {
        let m = self.process.marginal(t);
        let (c_skip, c_out) = self.parametrisation.skip_out(&m, self.sigma_data);
        Coefficients {
            c_skip,
            c_out,
            c_in: self.parametrisation.c_in(&m, self.sigma_data),
            c_noise: match self.timesteps.iter().find(|(at, _)| *at == t) {
                Some((_, timestep)) => *timestep,
                None => self.parametrisation.c_noise(&m, self.process.clock(t)),
            },
        }
    }

    /// (a, b) in E(x, t) = a |x|^2 + b h(c_in x, c_noise), the energy of a network that is a gradient, F = grad h:
    /// a = (1 - alpha c_skip) / (2 sigma^2), b = -alpha c_out / (sigma^2 c_in), so that -grad E is the score.
    pub fn energy_coefficients(&self, t: f64) -> (f64, f64) {
        let m = self.process.marginal(t);
        let Coefficients { c_out, c_in, .. } = self.coefficients(t);
        let noise = m.sigma * m.sigma;
        (self.parametrisation.unskipped(&m, self.sigma_data) / (2. * noise), -m.alpha * c_out / (noise * c_in))
    }

    /// The network.
    pub(crate) fn net(&self) -> &dyn Net {
        self.net
    }

    /// What the network is told beside x and the time.
    pub fn cond(&self) -> &Cond {
        &self.cond
    }

    /// The standard deviation of the data.
    pub fn sigma_data(&self) -> f64 {
        self.sigma_data
    }

    /// The raw output F(c_in x, c_noise).
    pub fn output(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        let batch = x.dim(0)?;
        t.check(batch, "times of the denoiser")?;
        let c_noise: Vec<f64> = (0..batch).map(|i| self.coefficients(t.at(i)).c_noise).collect();
        let c_noise = Tensor::new(c_noise, x.device())?.to_dtype(x.dtype())?;
        let c_in: Vec<f64> = t.iter().map(|&t| self.coefficients(t).c_in).collect();
        let output = self.net.forward(&scale(x, &c_in)?, &c_noise, &self.cond)?;
        // the weights are variables: unless a gradient is wanted, samplers must not keep the graph of every evaluation
        Ok(if grad::recording() { output } else { output.detach() })
    }
}

impl Denoiser for Preconditioned<'_> {
    fn frame(&self) -> Frame<'_> {
        Frame { whole_batch: self.cond.conditions.per_sample(), ..Frame::of(self.process) }
    }

    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        let (c_skip, c_out): (Vec<_>, Vec<_>) =
            t.iter().map(|&t| self.coefficients(t)).map(|c| (c.c_skip, c.c_out)).unzip();
        combine(&c_skip, x, &c_out, &self.output(x, t)?)
    }

    fn noisy_energy(&self) -> Option<&dyn NoisyEnergy> {
        self.net.potential().map(|_| self as &dyn NoisyEnergy)
    }
}

//! A density of any family, with its weights.

use super::{DensitySpec, Inferred, Unnormalised};
use crate::checkpoint;
use crate::model::plain;
use crate::params::Params;
use candle_core::{DType, Device, Error, Result, Tensor, Var};
use langevin_dynamics::density::Evaluated;
use langevin_dynamics::{Conditionals, Density, Differentiable, Energy, Ladder, Score};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;
use std::collections::BTreeMap;
use std::path::Path;

/// A density p(x) = exp(-E(x)) / Z, what it is made of, and its weights. As a [`Density`] it has what its body has.
pub struct DensityModel {
    /// What it is made of.
    pub spec: DensitySpec,
    body: Box<dyn Unnormalised>,
    vars: Vec<(String, Var)>,
    dtype: DType,
    device: Device,
}

impl DensityModel {
    /// A density with fresh weights: a pure function of `seed` and each parameter's name.
    ///
    /// Errors in one sentence that names the option which is wrong.
    pub fn new(spec: DensitySpec, seed: u64, dtype: DType, device: &Device) -> Result<Self> {
        spec.parameters()?; // before memory is taken
        Self::from_params(spec, &Params::seeded(seed), dtype, device)
    }

    /// The density with these weights, copied in `dtype`.
    ///
    /// Errors, naming it, if one is missing, has another shape, or is one too many.
    pub fn of(
        spec: DensitySpec,
        weights: impl IntoIterator<Item = (String, Tensor)>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let weights = weights.into_iter().map(|(name, t)| (name, t.detach()));
        let params = Params::loaded(weights.collect());
        let model = Self::from_params(spec, &params, dtype, device)?;
        checkpoint::refuse_unused("the weights", &params)?;
        Ok(model)
    }

    /// The density with the parameters that `params` gives.
    pub fn from_params(spec: DensitySpec, params: &Params, dtype: DType, device: &Device) -> Result<Self> {
        let built = spec.build(params, dtype, device);
        let body = built.map_err(|e| Error::Msg(format!("family `{}`: {}", spec.family.name(), plain(&e))))?;
        Ok(Self { spec, body, vars: params.vars(), dtype, device: device.clone() })
    }

    /// A second one of other weights, as [`DensityModel::weights`] names them.
    pub fn with(&self, weights: impl IntoIterator<Item = (String, Tensor)>) -> Result<Self> {
        Self::of(self.spec.clone(), weights, self.dtype, &self.device)
    }

    /// The density itself.
    pub fn body(&self) -> &dyn Unnormalised {
        self.body.as_ref()
    }

    /// The parameters, sorted by name.
    pub fn vars(&self) -> &[(String, Var)] {
        &self.vars
    }

    /// The parameters as they are now, by name.
    pub fn weights(&self) -> Vec<(String, Tensor)> {
        self.vars.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
    }

    /// How many numbers the parameters hold.
    pub fn parameters(&self) -> usize {
        self.vars.iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// Type of the parameters, and of the states.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the parameters are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Writes it to `path` with any `extra` texts.
    ///
    /// Errors in one sentence that names the file; a file that was there is then untouched.
    pub fn save(&self, path: &Path, extra: &BTreeMap<String, String>) -> Result<()> {
        checkpoint::save(path, &self.spec, &self.weights(), extra)
    }

    /// Data `x` `[B, ...]` as states: with the means of the latent units beside them, as training infers them.
    pub fn completed(&self, x: &Tensor) -> Result<Tensor> {
        match self.body.latent_means(x)? {
            Some(latent) => Tensor::cat(&[x.flatten_from(1)?, latent], 1),
            None => Ok(x.clone()),
        }
    }

    /// The same with latent units drawn: independently with these means, and then by so many `sweeps` of Gibbs sampling given the
    /// data.
    pub fn completed_by(&self, x: &Tensor, sweeps: usize, z: &mut Noise) -> Result<Tensor> {
        let (Some(means), Some(blocks)) = (self.body.latent_means(x)?, self.as_conditionals()) else {
            return Ok(x.clone());
        };
        let data = x.flatten_from(1)?;
        let logits = (means.log()? - means.affine(-1., 1.)?.log()?)?; // infinite ones are drawn surely
        let mut states = Tensor::cat(&[&data, &z.bernoulli(&logits)?], 1)?;
        let held = Tensor::cat(&[data.ones_like()?, means.zeros_like()?], 1)?;
        for _ in 0..sweeps {
            states = (0..blocks.blocks()).try_fold(states, |x, block| blocks.draw(block, &x, Some(&held), z))?;
        }
        Ok(states)
    }

    /// -E of the states `x` `[B, ...]`.
    ///
    /// Errors if the density has no energy.
    pub fn log_f(&self, x: &Tensor) -> Result<Vec<f64>> {
        let energy = self.known(self.as_energy(), "no energy, and so no likelihood")?;
        Ok(to_host(&energy.energy(x)?.detach())?.iter().map(|energy| -energy).collect())
    }

    /// ln of the sum of exp(-E) over the latent units given data `x` `[B, ...]`, of a density without such units -E: ln p but for
    /// ln Z, or a bound of it from below.
    ///
    /// Errors if the density has no energy.
    pub fn log_sum(&self, x: &Tensor) -> Result<Inferred> {
        if let Some(inferred) = self.body.log_sum_latent(x)? {
            return Ok(inferred);
        }
        Ok(Inferred { log_sum: self.log_f(x)?, exact: true })
    }

    /// The sums over states `x` `[B, ...]` of their rows ([`States::rows`](super::States::rows)), to whose means [`DensityModel::ladder`] is fitted.
    pub fn sums(&self, x: &Tensor) -> Result<Tensor> {
        self.spec.states().rows(&x.detach())?.sum(0)
    }

    /// A copy in another type.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Self::of(self.spec.clone(), self.weights(), dtype, &self.device)
    }

    /// The ladder of [`Unnormalised::ladder`]. Errors if the family knows none.
    pub fn ladder(&self, means: Option<&[f64]>, rungs: usize) -> Result<Box<dyn Ladder + '_>> {
        self.known(self.body.ladder(means, rungs)?, "no ladder of densities that leads to it")
    }

    /// The filters of [`Unnormalised::filters`]. Errors if the family has none.
    pub fn filters(&self) -> Result<Tensor> {
        self.known(self.body.filters()?, "no filters to look at")
    }

    /// The features of [`Unnormalised::features`]. Errors if the family has none.
    pub fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.known(self.body.features(x)?, "no hidden units whose means are features")
    }

    fn known<T>(&self, found: Option<T>, lacks: &str) -> Result<T> {
        found.ok_or_else(|| Error::Msg(format!("the family {} has {lacks}", self.spec.family.name())))
    }
}

impl Density for DensityModel {
    fn as_differentiable(&self) -> Option<&dyn Differentiable> {
        self.body.as_differentiable()
    }

    fn as_energy(&self) -> Option<&dyn Energy> {
        self.body.as_energy()
    }

    fn as_score(&self) -> Option<&dyn Score> {
        self.body.as_score()
    }

    fn as_conditionals(&self) -> Option<&dyn Conditionals> {
        self.body.as_conditionals()
    }

    fn tempered(&self, beta: f64) -> Option<Box<dyn Density + '_>> {
        self.body.tempered(beta)
    }

    fn evaluate(&self, x: &Tensor) -> Result<Evaluated> {
        self.body.evaluate(x)
    }
}

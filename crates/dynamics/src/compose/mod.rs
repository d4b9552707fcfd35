//! Models made of models by their energies: products, powers, negations and mixtures. \[Hinton02; Du20; Du23\]
//!
//! `a & b` has the energy E_a + E_b, `w*a` w E_a, `!a` -E_a, all of it divided by a temperature; `a | r:b` has
//! -ln(exp(-E_a) + r exp(-E_b)) and asks for normalised energies, which [`Sum::normalised`] makes of others,
//! compositions among them. At noise level t these are compositions of noisy densities, which are not the noisy
//! composition: no reverse process leads from one to the next, and samplers need MCMC at each level (`pc` with a corrector,
//! as \[Du23\]; `annealed-mcmc`, in small steps), or weights (`smc`).
//!
//! A negated part must leave the whole integrable: `2*a & !b` where b is not much narrower than a (of Gaussians, where its
//! variance is more than half of a's). At pure noise all parts are one Gaussian: with weights that add up to 0 or less, as in
//! `a & !b`, the composition is refused, however wide b is. Where tails make it diverge, chains run away, which their reports
//! show.

mod expression;
mod weigh;

pub use expression::Expression;

use crate::Denoiser;
use crate::process::Within;
use crate::sum::{LevelWeight, Sum};
use candle_core::{Result, bail};

impl<'a> Sum<'a> {
    /// The composition `expression` of `models`, each with its name, at a temperature that divides the energy. Models of other
    /// processes than the first are reframed onto that, and the span is what all of them know. Energies that are normalised
    /// are taken to have one constant, all the same; [`crate::likelihood::Constants::same`] gives each its own.
    ///
    /// Errors if a name has no model or a model no name in it, if the models have no noise level in common, if a mixture
    /// has a part without an energy or a normaliser and no ratio, or if no density comes of it.
    pub fn composed(expression: &Expression, models: &[(&str, &'a dyn Denoiser)], temperature: f64) -> Result<Self> {
        if !(temperature.is_finite() && temperature > 0.) {
            bail!("compose: temperature is {temperature}; it must be a number above 0");
        }
        let names: Vec<String> = models.iter().map(|(name, _)| name.to_string()).collect();
        expression.check_names(&names)?;
        let Some((_, first)) = models.first() else { bail!("compose: there are no models") };
        let mut process = Within::all(first.process());
        for (_, model) in models {
            process = process.and(model.process())?;
        }
        let place = move |name: &str| names.iter().position(|own| own == name);
        let model = |name: &str| place(name).map(|k| models[k].1);
        let known = |name: &str| model(name).and_then(|m| m.noisy_energy()).is_some_and(|e| e.normalised());
        if expression.mixes()
            && let Some((name, _)) = models.iter().find(|(_, model)| model.noisy_energy().is_none())
        {
            bail!("compose: a mixture needs energies, and `{name}` has a score alone; use & and weights, or an energy");
        }
        if let Some((_, part)) = expression.unnormalised(&known).iter().find(|(ratio, _)| ratio.is_none()) {
            bail!(
                "compose: `{part}` is part of a mixture, but how much of it there is depends on its normaliser, which is not \
                 known; estimate it, take an energy that learnt it, or give the ratio of its exp(-E) to the others', such as \
                 1:{part}"
            );
        }
        let precision = |name: &str| model(name).map_or(f64::NAN, |m| m.prior_precision());
        let prior_precision = expression.precision(&precision) / temperature;
        if !(prior_precision.is_finite() && prior_precision > 0.) {
            bail!(
                "compose: the weights of \"{expression}\" add up to {}: there is no such density; they must add up to \
                 more than 0",
                prior_precision * temperature
            );
        }
        let (unevenness, normalised) = (expression.unevenness(&precision), expression.normalised(&known));
        let cold = Expression::Weighted(1. / temperature, Box::new(expression.clone()));
        let energy = move |energies: &[f64]| {
            let of = |name: &str| place(name).map_or(f64::NAN, |k| energies[k]);
            let mut shares = vec![0.; energies.len()];
            cold.shares(&of, 1., &mut |name, share| place(name).into_iter().for_each(|k| shares[k] += share));
            (cold.energy(&of), shares)
        };
        let (_, shares) = energy(&vec![0.; models.len()]);
        let deficit = 1. - shares.iter().sum::<f64>();
        let constant = |w: f64| -> LevelWeight { Box::new(move |_| w) };
        Ok(Self {
            process,
            weights: (!expression.mixes()).then(|| shares.into_iter().map(constant).collect()),
            deficit,
            energy: Some(Box::new(energy)),
            prior_precision,
            normalised: temperature == 1. && normalised,
            unevenness,
            ..Self::new(models.iter().map(|(_, model)| *model), first.process(), vec![])?
        })
    }

    /// By how many times the precisions of the parts of a mixture differ at the prior end, r: 1 for those alike. Samples
    /// begin as wide as the widest part, and find the others only while D/2 (r - 1 - ln r) is a few nats, D the dimension.
    pub fn unevenness(&self) -> f64 {
        self.unevenness
    }
}

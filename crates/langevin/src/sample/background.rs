//! Whether an image has the background of the data of a model: dark ink on white paper is far from white digits on black.

use anyhow::Result;
use candle_core::Tensor;
use langevin_data::Options;
use langevin_ops::shape::to_host;
use std::path::Path;

/// Images of the data that are looked at.
const SOME: usize = 64;
/// Of the choice of them.
const SEED: u64 = 5;
/// Black to white is 2. Backgrounds of data that are this much alike are one background, and an image that is this far from
/// it has another.
const ALIKE: f64 = 0.5;
const FAR: f64 = 1.;

/// The image `x` `[1, C, H, W]` in [-1, 1] of the file that `option` names, its brightness turned over if `invert`. Notes if it is
/// light where the data `learnt` are dark, or dark where they are light, and would not be without `invert` or with it.
pub fn fitting(learnt: Option<String>, (option, path): (&str, &Path), x: Tensor, invert: bool) -> Result<Tensor> {
    let x = if invert { x.neg()? } else { x };
    let Some((spec, data)) = learnt.and_then(|spec| of_data(spec, &x.dims()[1..])) else { return Ok(x) };
    let own = median(of(&x)?);
    if (own - data).abs() > FAR && (-own - data).abs() < FAR {
        let [own, theirs] = [own, data].map(|level| if level < 0. { "dark" } else { "light" });
        let advice = match invert {
            true => "leave --invert out",
            false => "if it is ink on paper, give --invert",
        };
        crate::note!(
            "warning: --{option} {}: its background is {own}, and that of {spec}, which the model learnt, is \
                 {theirs}; {advice}",
            path.display()
        );
    }
    Ok(x)
}

/// The background of the data that a model learnt, and their name; none if they are not there, or have no one background.
fn of_data(spec: String, shape: &[usize]) -> Option<(String, f64)> {
    let shape = Some(shape.to_vec());
    let options = Options { shape, on_demand: true, ..Options::default() };
    let data = langevin_data::open(&spec, &options).ok()?;
    let x = data.get(&langevin_data::spread(data.len(), SOME, SEED)).ok()?.x;
    let mut all =
        (0..x.dim(0).ok()?).map(|i| Some(median(of(&x.narrow(0, i, 1).ok()?).ok()?))).collect::<Option<Vec<_>>>()?;
    all.sort_by(f64::total_cmp);
    let at = |q: f64| all[((all.len() - 1) as f64 * q).round() as usize];
    (at(0.9) - at(0.1) < ALIKE).then(|| (spec, at(0.5)))
}

/// The numbers at the edge of images `[N, C, H, W]`.
fn of(x: &Tensor) -> Result<Vec<f64>> {
    let (_, _, h, w) = x.dims4()?;
    let sides = [x.narrow(2, 0, 1)?, x.narrow(2, h - 1, 1)?, x.narrow(3, 0, 1)?, x.narrow(3, w - 1, 1)?];
    let sides = sides.iter().map(to_host).collect::<candle_core::Result<Vec<_>>>()?;
    Ok(sides.concat())
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

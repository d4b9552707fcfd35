//! Wrapped denoisers against what they are by definition.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::largest;
use langevin_dynamics::exact::Exact;
use langevin_dynamics::inverse::{Along, Measured, Operator, Posterior, Separable};
use langevin_dynamics::likelihood::{Constants, LogZ};
use langevin_dynamics::process::{AnyProcess, Edm, Flow, Vp};
use langevin_dynamics::{
    Clamped, Clip, Denoiser, Expression, Frame, FromEnergy, Guidance, Mixture, NoisyEnergy, Process, Reframed, Sum,
};
use langevin_ops::noise::Noise;
use langevin_ops::shape::{combine, per_sample, sum_per_sample, to_host};
use std::cell::Cell;

fn normal(shape: &[usize]) -> Tensor {
    let seeds: Vec<u64> = (0..shape[0] as u64).collect();
    Noise::seeds(&seeds).normal(shape, DType::F64, &Device::Cpu).unwrap()
}

fn rows(rows: &[&[f64]]) -> Tensor {
    Tensor::from_vec(rows.concat(), (rows.len(), rows[0].len()), &Device::Cpu).unwrap()
}

#[test]
fn clip() -> Result<()> {
    let x0 = rows(&[&[0.5, -0.2, 0.1, -0.9, 0.3], &[4., -2., 1., -0.5, 0.]]);
    let fixed = Clip::default().apply(&x0)?;
    assert_eq!(to_host(&fixed)?, [0.5, -0.2, 0.1, -0.9, 0.3, 1., -1., 1., -0.5, 0.]);
    // |x0| of the second row in order: 0, 0.5, 1, 2, 4; its 0.75 quantile is 2, its 0.8 quantile 2.4
    let dynamic = |quantile, max_threshold| Clip { range: 1., quantile: Some(quantile), max_threshold };
    let first = [0.5, -0.2, 0.1, -0.9, 0.3];
    let expect =
        |clip: Clip, second: [f64; 5]| assert!(largest(&clip.apply(&x0).unwrap(), &rows(&[&first, &second])) < 1e-15);
    expect(dynamic(0.75, None), [1., -1., 0.5, -0.25, 0.]);
    expect(dynamic(0.8, None), [1., -2. / 2.4, 1. / 2.4, -0.5 / 2.4, 0.]);
    expect(dynamic(1., Some(1.6)), [1., -1., 0.625, -0.3125, 0.]);
    expect(dynamic(1., Some(1.)), [1., -1., 1., -0.5, 0.]);
    Ok(())
}

#[test]
fn clamped() -> Result<()> {
    let mixture = Mixture::isotropic(&[1., 1.], &[vec![1.5; 3], vec![-0.3; 3]], &[0.01, 0.01])?;
    let vp = Vp::default();
    let exact = mixture.under(&vp);
    let model = Clamped::new(&exact, Clip::default())?;
    let x = (normal(&[50, 3]) * 1.5)?;
    let t: Vec<f64> = (0..50).map(|i| 0.01 + 0.015 * f64::from(i)).collect();
    let (free, kept) = (exact.x0(&x, &t)?, model.x0(&x, &t)?);
    assert!(largest(&free, &kept) > 0.3, "nothing to clip");
    assert!(largest(&free.clamp(-1., 1.)?, &kept) == 0.);
    // the views follow the clipped x0: alpha x0 + sigma eps is x again
    let of = |f: fn(langevin_dynamics::Marginal) -> f64| t.iter().map(|&t| f(vp.marginal(t))).collect::<Vec<_>>();
    let again = combine(&of(|m| m.alpha), &kept, &of(|m| m.sigma), &model.eps(&x, &t)?)?;
    assert!(largest(&again, &x) < 1e-13);
    for (bad, key) in [
        (Clip { range: 0., ..Clip::default() }, "range"),
        (Clip { range: f64::NAN, ..Clip::default() }, "range"),
        (Clip { quantile: Some(1.5), ..Clip::default() }, "quantile"),
        (Clip { quantile: Some(f64::NAN), ..Clip::default() }, "quantile"),
        (Clip { quantile: Some(0.9), max_threshold: Some(0.5), ..Clip::default() }, "max_threshold"),
        (Clip { max_threshold: Some(2.), ..Clip::default() }, "quantile"),
    ] {
        let text = Clamped::new(&exact, bad).err().unwrap().to_string();
        assert!(text.contains(key), "{text}");
    }
    Ok(())
}

/// Counts how often it is asked.
struct Counted<'a>(&'a dyn Denoiser, Cell<usize>);

impl Denoiser for Counted<'_> {
    fn frame(&self) -> Frame<'_> {
        self.0.frame()
    }
    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        self.1.set(self.1.get() + 1);
        self.0.x0(x, t)
    }
}

#[test]
fn guided() -> Result<()> {
    let (one, all) = (
        Mixture::isotropic(&[1.], &[vec![1.; 2]], &[0.1])?,
        Mixture::isotropic(&[1., 1.], &[vec![1.; 2], vec![-1.; 2]], &[0.1, 0.1])?,
    );
    let edm = Edm::default();
    let (model, plain) = (one.under(&edm), all.under(&edm));
    let guide = Counted(&plain, Cell::new(0));
    let x = normal(&[3, 2]);
    let t = [0.05, 0.5, 5.];
    let guided = |scale, interval| Sum::guided(&model, &guide, Guidance { scale, interval });

    assert_eq!(largest(&guided(1., None)?.x0(&x, &t)?, &model.x0(&x, &t)?), 0.);
    assert_eq!(guide.1.get(), 0, "the guide was asked for nothing");
    assert!(largest(&guided(0., None)?.x0(&x, &t)?, &plain.x0(&x, &t)?) < 1e-15);
    // in scores: s = s_guide + w (s_model - s_guide), the product p_model^w p_guide^(1-w)
    let score = combine(&[3.], &model.score(&x, &t)?, &[-2.], &plain.score(&x, &t)?)?;
    let ours = guided(3., None)?.score(&x, &t)?;
    assert!(largest(&ours, &score) < 1e-10 * to_host(&score)?.iter().fold(0., |top, v| f64::max(top, v.abs())));
    // only the middle sample is in the interval
    let some = guided(3., Some((0.1, 1.)))?.x0(&x, &t)?;
    let (everywhere, nowhere) = (guided(3., None)?.x0(&x, &t)?, model.x0(&x, &t)?);
    for (i, expected) in [(0, &nowhere), (1, &everywhere), (2, &nowhere)] {
        assert!(largest(&some.narrow(0, i, 1)?, &expected.narrow(0, i, 1)?) < 1e-15);
    }
    let asked = guide.1.get();
    guided(3., Some((0.1, 1.)))?.x0(&x, &[7.])?;
    assert_eq!(guide.1.get(), asked);

    for (scale, interval) in
        [(f64::NAN, None), (2., Some((1., 0.5))), (2., Some((-1., 1.))), (2., Some((0., f64::NAN)))]
    {
        assert!(guided(scale, interval).is_err());
    }
    let far = Edm { sigma_min: 1e3, sigma_max: 1e4 };
    let other = all.under(&far);
    assert!(Sum::guided(&model, &other, Guidance::default()).err().unwrap().to_string().contains("none in common"));
    // a flow's alpha is 0 at its end: guidance with an interval leaves that alone
    let flow = Flow::default();
    let (model, guide) = (one.under(&flow), all.under(&flow));
    let far = Sum::guided(&model, &guide, Guidance { scale: 3., interval: Some((0., 10.)) })?;
    assert_eq!(largest(&far.x0(&x, &[1.])?, &model.x0(&x, &[1.])?), 0.);
    Ok(())
}

/// Two normal densities guide each other to a third: p^w q^(1-w) has the precision w/a + (1-w)/b. Both a score and an energy,
/// with its dE/dt, are those of that density.
#[test]
fn guided_energies_are_the_weighted_sum() -> Result<()> {
    let (v, u, w) = (0.3, 0.8, 1.6);
    let near = Mixture::isotropic(&[1.], &[vec![0.7; 2]], &[v])?;
    let wide = Mixture::isotropic(&[1.], &[vec![-0.2; 2]], &[u])?;
    for process in [AnyProcess::from(Vp::default()), Edm::default().into(), Flow::default().into()] {
        let process = process.get();
        let (model, guide) = (near.under(process), wide.under(process));
        let guided = Sum::guided(&model, &guide, Guidance { scale: w, interval: None })?;
        let energies = guided.noisy_energy().unwrap();
        assert!(!energies.normalised());
        let x = normal(&[6, 2]);
        let (low, high) = process.span();
        for t in [0.1, 0.4, 0.7].map(|part| low + part * (high - low)) {
            let m = process.marginal(t);
            let (a, b) = (m.alpha * m.alpha * v + m.sigma * m.sigma, m.alpha * m.alpha * u + m.sigma * m.sigma);
            let precision = w / a + (1. - w) / b;
            let mean = m.alpha * (0.7 * w / a - 0.2 * (1. - w) / b) / precision;
            let centred = x.affine(1., -mean)?;
            let score = centred.affine(-precision, 0.)?;
            let (energy, gradient) = energies.energy_grad(&x, &[t])?;
            let size = to_host(&score)?.iter().fold(0., |top, v| f64::max(top, v.abs()));
            assert!(
                largest(&gradient.neg()?, &score) < 1e-10 * size
                    && largest(&guided.score(&x, &[t])?, &score) < 1e-8 * size
            );
            // up to a constant
            let free = (&energy - sum_per_sample(&centred.sqr()?.affine(0.5 * precision, 0.)?)?)?;
            let free = to_host(&free)?;
            assert!(free.iter().all(|e| (e - free[0]).abs() < 1e-10 * (1. + size * size)), "{free:?}");
            assert_eq!(to_host(&energies.energy_at(&x, &[t])?)?, to_host(&energy)?);
            let jet = energies.jet(&x, &[t])?;
            let h = 1e-4 * t;
            let rise = ((energies.energy_at(&x, &[t + h])? - energies.energy_at(&x, &[t - h])?)? / (2. * h))?;
            let top = to_host(&rise)?.iter().fold(0., |top, v| f64::max(top, v.abs()));
            assert!(largest(&jet.dt, &rise) < 1e-5 * top && largest(&jet.gradient, &gradient) < 1e-12 * size);
        }
        let plain = Counted(&guide, Cell::new(0));
        assert!(Sum::guided(&model, &plain, Guidance::default())?.noisy_energy().is_none());
    }
    Ok(())
}

/// A model whose samples have conditions of their own, and whose p_t at the end of the span is a power of noise.
struct Conditional<'a>(Exact<'a>);

impl Denoiser for Conditional<'_> {
    fn frame(&self) -> Frame<'_> {
        Frame { prior_precision: 3., whole_batch: true, ..self.0.frame() }
    }
    fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
        self.0.x0(x, t)
    }
    fn noisy_energy(&self) -> Option<&dyn NoisyEnergy> {
        self.0.noisy_energy()
    }
}

/// What holds of a model holds of it wrapped.
#[test]
fn wrappers_hand_on_the_frame() -> Result<()> {
    let (edm, vp) = (Edm::default(), Vp::default());
    let mixture = Mixture::isotropic(&[1.], &[vec![0.3; 2]], &[0.5])?;
    let (model, other) = (Conditional(mixture.under(&edm)), mixture.under(&edm));
    let log_z = Constants::same(LogZ { value: 1., error: 0., spread: 0., runs: 1 });
    let all: Box<dyn Operator> = Box::new(Separable::new(vec![Along::new(1, &rows(&[&[1., 0.], &[0., 1.]]))?], None)?);
    let seen = Measured::new(all, rows(&[&[0., 1.]]), 0.1)?;
    let wrapped: [(&dyn Denoiser, f64); 6] = [
        (&Clamped::new(&model, Clip::default())?, 3.),
        (&Reframed::new(&model, &vp)?, 3.),
        (&Posterior::new(&model, &seen), 3.),
        (&Sum::guided(&model, &other, Guidance { scale: 2., interval: None })?, 5.),
        (&Sum::composed(&Expression::parse("2*a & b")?, &[("a", &model), ("b", &other)], 1.)?, 7.),
        (&Sum::normalised(&model, log_z)?, 3.),
    ];
    for (wrapped, precision) in wrapped {
        assert!(wrapped.whole_batch() && wrapped.prior_precision() == precision);
    }
    Ok(())
}

/// The energy of N(0.3, 0.49 I), written with tensors, gives the exact x0, eps, score and velocity.
#[test]
fn from_energy() -> Result<()> {
    let mixture = Mixture::isotropic(&[1.], &[vec![0.3; 4]], &[0.49])?;
    let x = normal(&[3, 2, 2]);
    for process in AnyProcess::defaults() {
        let p = process.get();
        let energy = |x: &Tensor, t: &[f64]| {
            let of = |f: &dyn Fn(langevin_dynamics::Marginal) -> f64| {
                t.iter().map(|&t| f(p.marginal(t))).collect::<Vec<_>>()
            };
            let centred = x.broadcast_sub(&per_sample(&of(&|m| 0.3 * m.alpha), x)?)?;
            let precision = of(&|m| 0.5 / (0.49 * m.alpha * m.alpha + m.sigma * m.sigma));
            sum_per_sample(&centred.sqr()?.broadcast_mul(&per_sample(&precision, x)?)?)
        };
        let (model, exact) = (FromEnergy::new(p, energy)?, mixture.under(p));
        let (low, high) = p.span();
        for t in [vec![low + 0.3 * (high - low)], vec![low, low + 0.1 * (high - low), low + 0.9 * (high - low)]] {
            let close = |a: Tensor, b: Tensor| {
                let top = to_host(&b).unwrap().iter().fold(0., |top, v| f64::max(top, v.abs()));
                assert!(largest(&a, &b) <= 1e-9 * top, "{p:?} at {t:?}: {}", largest(&a, &b) / top);
            };
            close(model.x0(&x, &t)?, exact.x0(&x, &t)?);
            close(model.eps(&x, &t)?, exact.eps(&x, &t)?);
            close(model.score(&x, &t)?, exact.score(&x, &t)?);
            close(model.velocity(&x, &t)?, exact.velocity(&x, &t)?);
            let differences = |e: Tensor| to_host(&e).map(|e| [e[1] - e[0], e[2] - e[0]]);
            if t.len() == 1 {
                let (ours, theirs) = (differences(model.energy(&x, &t)?)?, differences(exact.energy(&x, &t)?)?);
                assert!(ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() < 1e-9), "{ours:?} {theirs:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn from_energy_refuses() -> Result<()> {
    let x = normal(&[3, 2]);
    let flow = Flow::default();
    let model = FromEnergy::new(&flow, |x: &Tensor, _: &[f64]| sum_per_sample(&(x.sqr()? * 0.5)?))?;
    let text = model.x0(&x, &[1.]).unwrap_err().to_string();
    assert!(text.contains("alpha = 0") && text.contains("t_max"), "{text}");
    // the score needs no alpha
    assert!(largest(&model.score(&x, &[1.])?, &x.neg()?) < 1e-15);
    let total = FromEnergy::new(&flow, |x: &Tensor, _: &[f64]| x.sqr()?.sum_all())?;
    assert!(total.score(&x, &[0.5]).unwrap_err().to_string().contains("one number a sample"));
    assert!(
        FromEnergy::new(&Edm { sigma_min: -1., sigma_max: 1. }, |x: &Tensor, _: &[f64]| sum_per_sample(x)).is_err()
    );
    Ok(())
}

//! What is looked at, against fields, matrices and mixtures that are known.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::greatest;
use faer::{Mat, Side};
use langevin_dynamics::process::{AnyProcess, Edm};
use langevin_dynamics::{Cond, Denoiser, Frame, Marginal, Mixture};
use langevin_eval::look::curl::{curl, share};
use langevin_eval::look::ks::ks;
use langevin_eval::look::lanczos::{Spectrum, hessian, lanczos};
use langevin_eval::look::path::{along, straight};
use langevin_eval::look::plane::Plane;
use langevin_eval::maps::maps;
use langevin_models::mixture::{EXACT, MixtureConfig, exact};
use langevin_models::mlp::MlpConfig;
use langevin_models::{Head, Model, ModelSpec};
use langevin_ops::noise::Noise;
use langevin_ops::shape::to_host;

fn normal(shape: &[usize], seed: u64) -> Tensor {
    let streams: Vec<u64> = (0..shape[0] as u64).map(|i| 1000 * seed + i).collect();
    Noise::seeds(&streams).normal(shape, DType::F64, &Device::Cpu).unwrap()
}

/// x0 = M x, a linear field.
struct Linear {
    matrix: Tensor, // [D, D]
    process: Edm,
}

impl Denoiser for Linear {
    fn frame(&self) -> Frame<'_> {
        Frame::of(&self.process)
    }

    fn x0(&self, x: &Tensor, _: &[f64]) -> Result<Tensor> {
        x.matmul(&self.matrix.t()?.contiguous()?)
    }
}

fn model(head: Head, shape: usize) -> Model {
    let spec =
        ModelSpec::energy([shape]).head(head).net(MlpConfig { width: 16, layers: 2, dropout: 0. }).sigma_data(0.7);
    let model = Model::new(spec, 5, DType::F64, &Device::Cpu).unwrap();
    // its last layer starts at zero: give every weight something to say
    for (i, (_, var)) in model.vars().iter().enumerate() {
        let noise = normal(&[1, var.elem_count()], i as u64).reshape(var.shape()).unwrap();
        var.set(&(var.as_tensor() + noise.affine(0.3, 0.).unwrap()).unwrap()).unwrap();
    }
    model
}

#[test]
fn the_curl_of_a_linear_field_is_that_of_its_matrix() -> Result<()> {
    let d = 6;
    let matrix = normal(&[d, d], 1);
    let antisymmetric = ((&matrix - matrix.t()?)? * 0.5)?;
    let square = |m: &Tensor| m.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
    let t = 0.5;
    let of_score = ((&matrix - Tensor::eye(d, DType::F64, &Device::Cpu)?)? / (t * t))?;
    let truths = [square(&antisymmetric) / square(&matrix), square(&(&antisymmetric / (t * t))?) / square(&of_score)];
    let field = Linear { matrix, process: Edm::default() };
    let exact = curl(&field, &normal(&[2, d], 2), t, d, &mut Noise::seeds(&[1, 2]))?;
    for (parts, truth) in [&exact.x0, &exact.score].into_iter().zip(truths) {
        let (share, error) = share(parts);
        assert!((share - truth).abs() < 1e-12 && error < 1e-12, "{share} {truth}");
    }
    let n = 500;
    let seeds: Vec<u64> = (0..n).collect();
    let estimated = curl(&field, &normal(&[n as usize, d], 3), t, 2, &mut Noise::seeds(&seeds))?;
    for (parts, truth) in [&estimated.x0, &estimated.score].into_iter().zip(truths) {
        let (share, error) = share(parts);
        assert!((share - truth).abs() < 5. * error && error < 0.05, "{share} {error} {truth}");
    }
    Ok(())
}

#[test]
fn energies_have_no_curl_and_plain_networks_do() -> Result<()> {
    let x = normal(&[3, 4], 1);
    let found = |head| -> Result<f64> {
        let model = model(head, 4);
        let denoiser = model.denoiser(Cond::default())?;
        Ok(share(&curl(&denoiser, &x, 0.6, 4, &mut Noise::seeds(&[1, 2, 3]))?.x0).0)
    };
    let (energy, plain) = (found(Head::Energy)?, found(Head::Denoiser)?);
    assert!(energy < 1e-20, "{energy}");
    assert!((0.001..1.).contains(&plain), "{plain}");
    Ok(())
}

#[test]
fn the_energy_along_a_path_is_known_by_value_and_by_line_integral() -> Result<()> {
    /// The same mixture, of which only the score is known.
    struct ScoreAlone<'a>(langevin_dynamics::exact::Exact<'a>);
    impl Denoiser for ScoreAlone<'_> {
        fn frame(&self) -> Frame<'_> {
            self.0.frame()
        }
        fn x0(&self, x: &Tensor, t: &[f64]) -> Result<Tensor> {
            self.0.x0(x, t)
        }
    }
    let mixture = Mixture::isotropic(&[0.4, 0.6], &[vec![-1., 0.], vec![1., 0.3]], &[0.1, 0.2])?;
    let (process, t) = (Edm::default(), 0.2);
    let exact = mixture.under(&process);
    let ends = [[-1., 0.], [1., 0.3]].map(|x| Tensor::new(&[x], &Device::Cpu).unwrap());
    let path = straight(&ends[0], &ends[1], 81)?;
    let energy = to_host(&exact.energy(&path, &[t])?)?;
    let top = energy.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let known = along(&exact, &path, t, 7, |_, _| ())?;
    assert!(known.error.is_none() && (known.barrier() - (top - energy[0].max(energy[80]))).abs() < 1e-10);
    assert!(known.barrier() > 1.);
    let mut told = vec![];
    let integral = along(&ScoreAlone(exact), &path, t, 7, |done, all| told.push((done, all)))?;
    assert!(
        told.last().is_some_and(|&(done, all)| done == all) && told.iter().map(|t| t.0).eq(0..told.len()),
        "{told:?}"
    );
    let off = greatest(integral.energy.iter().zip(&energy).map(|(a, b)| (a - (b - energy[0])).abs()));
    let error = integral.error.unwrap();
    assert!(off < 1e-6 && off < 5. * error + 1e-9 && error < 1e-6, "{off} {error}");
    // one piece, and an odd number of them: each has its error
    for points in [2, 4] {
        let path = straight(&ends[0], &ends[0].affine(0.7, 0.)?, points)?;
        let energy = to_host(&exact.energy(&path, &[t])?)?;
        let integral = along(&ScoreAlone(exact), &path, t, 7, |_, _| ())?;
        let error = integral.error.unwrap();
        let off = (integral.energy[points - 1] - (energy[points - 1] - energy[0])).abs();
        assert!(off > 0. && off < 5. * error, "{points} points: {off}, estimated {error}");
    }
    // fourth order
    let coarse = along(&ScoreAlone(exact), &straight(&ends[0], &ends[1], 41)?, t, 64, |_, _| ())?;
    assert!(coarse.error.unwrap() > 8. * error, "{:?} {error}", coarse.error);
    assert!(straight(&ends[0], &ends[1], 1).is_err());
    // what is not a number on the way is told
    let (start, middle) = (path.narrow(0, 0, 40)?, path.narrow(0, 41, 40)?);
    let lost = Tensor::cat(&[&start, &(path.narrow(0, 40, 1)? * f64::NAN)?, &middle], 0)?;
    assert!(along(&exact, &lost, t, 7, |_, _| ())?.barrier().is_nan());
    let lost = along(&ScoreAlone(exact), &lost, t, 7, |_, _| ())?;
    assert!(lost.barrier().is_nan() && lost.error.unwrap().is_nan());
    Ok(())
}

#[test]
fn lanczos_finds_all_of_a_small_matrix() -> Result<()> {
    let d = 9;
    let a = normal(&[d, d], 4);
    let a: Vec<f64> = to_host(&((&a + a.t()?)? * 0.5)?)?;
    let product = |v: &[Vec<f64>]| -> Result<Vec<Vec<f64>>> {
        let one = |v: &Vec<f64>| a.chunks(d).map(|row| row.iter().zip(v).map(|(a, v)| a * v).sum()).collect();
        Ok(v.iter().map(one).collect())
    };
    let start = to_host(&normal(&[2, d], 5))?;
    let start: Vec<Vec<f64>> = start.chunks(d).map(<[f64]>::to_vec).collect();
    let found = lanczos(&start, 50, product)?;
    for spectrum in &found {
        assert_eq!(spectrum.values.len(), d);
        // moments of the quadrature: sum_i w_i v_i^k = q^T A^k q
        assert!((spectrum.weights.iter().sum::<f64>() - 1.).abs() < 1e-12);
        // trace and Frobenius norm of A
        let trace: f64 = (0..d).map(|i| a[i * d + i]).sum();
        assert!((spectrum.values.iter().sum::<f64>() - trace).abs() < 1e-10);
        let squares: f64 = a.iter().map(|v| v * v).sum();
        assert!((spectrum.values.iter().map(|v| v * v).sum::<f64>() - squares).abs() < 1e-10);
        assert!(spectrum.errors.iter().all(|e| *e < 1e-9));
    }
    // a start vector with nothing but two eigenvectors finds two eigenvalues
    let diagonal = |v: &[Vec<f64>]| -> Result<Vec<Vec<f64>>> {
        Ok(v.iter().map(|v| v.iter().enumerate().map(|(i, v)| i as f64 * v).collect()).collect())
    };
    let two = lanczos(&[vec![0., 1., 0., 2., 0.], vec![1., 1., 1., 1., 1.]], 5, diagonal)?;
    assert_eq!((two[0].values.len(), two[1].values.len()), (2, 5));
    assert!((two[0].values[1] - 3.).abs() < 1e-12 && (two[0].weights[1] - 0.8).abs() < 1e-12);
    // few steps: the outermost come first, within the error that is claimed
    let mut long = vec![1.; 60];
    long[59] = 3.;
    let few = &lanczos(&[long], 12, diagonal)?[0];
    let last = few.values.len() - 1;
    assert!((few.values[last] - 59.).abs() <= few.errors[last] + 1e-9 && few.errors[last] < 1.);
    assert!(lanczos(&[vec![0.; 3]], 2, diagonal).is_err() && lanczos(&[], 2, diagonal).is_err());
    Ok(())
}

#[test]
fn hessians_of_energies_are_those_of_finite_differences() -> Result<()> {
    let model = model(Head::Energy, 3);
    let denoiser = model.denoiser(Cond::default())?;
    let energy = denoiser.noisy_energy().unwrap();
    let (x, t, h) = (normal(&[2, 3], 6), 0.8, 1e-4);
    let spectra = hessian(energy, &x, t, &normal(&[2, 3], 7), 10, &mut || Ok(()))?;
    for (b, spectrum) in spectra.iter().enumerate() {
        let x = x.narrow(0, b, 1)?;
        let (mut trace, mut squares) = (0., 0.);
        for i in 0..3 {
            let step = Tensor::from_iter((0..3).map(|j| if i == j { h } else { 0. }), &Device::Cpu)?.reshape((1, 3))?;
            let at = |x: &Tensor| to_host(&energy.energy_grad(x, &[t]).unwrap().1).unwrap();
            let (up, down) = (at(&(&x + &step)?), at(&(&x - &step)?));
            let row: Vec<f64> = up.iter().zip(down).map(|(up, down)| (up - down) / (2. * h)).collect();
            trace += row[i];
            squares += row.iter().map(|v| v * v).sum::<f64>();
        }
        assert!((spectrum.values.iter().sum::<f64>() / trace - 1.).abs() < 1e-6, "{spectrum:?} {trace}");
        assert!((spectrum.values.iter().map(|v| v * v).sum::<f64>() / squares - 1.).abs() < 1e-6);
    }
    Ok(())
}

/// The Hessian of E = -log p_t at `x`: with r_k the responsibilities, w_k = alpha^2 v_k + sigma^2 the variance and
/// g_k = (alpha mu_k - x) / w_k the score of component k, sum_k r_k (I / w_k - g_k g_k^T) + s s^T, s = sum_k r_k g_k.
fn hessian_of(net: &MixtureConfig, marginal: &Marginal, x: &[f64]) -> Result<Mat<f64>> {
    let point = net.mixture()?.at(marginal, x);
    let d = x.len();
    let entry = |i: usize, j: usize| -> f64 {
        let of = |((r, mean), v): ((&f64, &Vec<f64>), &f64)| {
            let w = marginal.alpha.powi(2) * v + marginal.sigma.powi(2);
            let g = |i: usize| (marginal.alpha * mean[i] - x[i]) / w;
            r * (f64::from(u8::from(i == j)) / w - g(i) * g(j))
        };
        let parts = point.responsibilities.iter().zip(&net.means).zip(&net.variances);
        parts.map(of).sum::<f64>() + point.score[i] * point.score[j]
    };
    let hessian = Mat::from_fn(d, d, entry);
    let trace: f64 = (0..d).map(|i| hessian[(i, i)]).sum();
    assert!((trace + point.laplacian).abs() < 1e-10 * trace.abs().max(1.), "{trace} {}", point.laplacian);
    Ok(hessian)
}

#[test]
fn spectra_of_mixtures_are_those_of_their_hessians() -> Result<()> {
    let (d, components) = (16, 60);
    let means = to_host(&normal(&[components, d], 20))?;
    let net = MixtureConfig {
        means: means.chunks(d).map(|mean| mean.iter().map(|m| 0.4 * m).collect()).collect(),
        weights: (0..components).map(|k| 1. + (k % 3) as f64).collect(),
        variances: (0..components).map(|k| 0.08 + 0.01 * (k % 5) as f64).collect(),
    };
    for name in ["edm", "vp"] {
        let spec = exact(EXACT[0].0, AnyProcess::named(name).unwrap()).unwrap();
        let model =
            Model::new(ModelSpec { shape: vec![d], net: net.clone().into(), ..spec }, 0, DType::F64, &Device::Cpu)?;
        let denoiser = model.denoiser(Cond::default())?;
        let energy = denoiser.noisy_energy().unwrap();
        let t = denoiser.process().t_at(-2. * 0.3f64.ln());
        let marginal = denoiser.process().marginal(t);
        // amid the modes, where some directions are curved down
        let x = (normal(&[2, d], 21) * (0.1 * marginal.alpha))?;
        let points: Vec<Vec<f64>> = x.to_vec2()?;
        let hessians = points.iter().map(|x| hessian_of(&net, &marginal, x)).collect::<Result<Vec<_>>>()?;
        let truths: Vec<Vec<f64>> = hessians
            .iter()
            .map(|h| {
                let eigen = h.self_adjoint_eigen(Side::Lower).unwrap();
                (0..d).map(|i| eigen.S()[i]).collect()
            })
            .collect();
        assert!(truths.iter().all(|truth| truth[0] < -0.1 && truth[d - 1] > 4.), "{truths:?}");

        // as many steps as numbers: every eigenvalue
        for (spectrum, truth) in hessian(energy, &x, t, &normal(&[2, d], 22), d, &mut || Ok(()))?.iter().zip(&truths) {
            assert_eq!(spectrum.values.len(), d);
            let off = greatest(spectrum.values.iter().zip(truth).map(|(a, b)| (a - b).abs()));
            assert!(off < 1e-8 * truth[d - 1], "{name}: {off:.1e}");
        }

        // fewer: each near an eigenvalue as it claims, the outermost first, and moments w . v^k = q^T H^k q to 2 steps - 1
        let (steps, start) = (10, normal(&[2, d], 23));
        let few = hessian(energy, &x, t, &start, steps, &mut || Ok(()))?;
        for ((spectrum, truth), (h, q)) in few.iter().zip(&truths).zip(hessians.iter().zip(start.to_vec2::<f64>()?)) {
            for (value, error) in spectrum.values.iter().zip(&spectrum.errors) {
                let nearest = truth.iter().map(|v| (v - value).abs()).fold(f64::INFINITY, f64::min);
                assert!(nearest <= error + 1e-9, "{name}: {value} +- {error}, {truth:?}");
            }
            let (inside, span) =
                ([spectrum.values[0] - truth[0], truth[d - 1] - spectrum.values[steps - 1]], truth[d - 1] - truth[0]);
            assert!(inside.iter().all(|by| (-1e-9..0.01 * span).contains(by)), "{name}: {inside:?} of {span}");
            let q = Mat::from_fn(d, 1, |i, _| q[i]);
            let mut moved = q.clone();
            for k in 0..2 * steps {
                let truth = (q.transpose() * &moved)[(0, 0)] / (q.transpose() * &q)[(0, 0)];
                let moment: f64 =
                    spectrum.values.iter().zip(&spectrum.weights).map(|(v, w)| w * v.powi(k as i32)).sum();
                let size: f64 =
                    spectrum.values.iter().zip(&spectrum.weights).map(|(v, w)| w * v.abs().powi(k as i32)).sum();
                assert!((moment - truth).abs() < 1e-9 * size, "{name}, moment {k}: {moment} {truth}");
                moved = h * moved;
            }
        }

        // the density over random vectors: its moments are those of the eigenvalues, and so is the part below a limit
        let n = 300;
        let many = x.narrow(0, 0, 1)?.broadcast_as((n, d))?.contiguous()?;
        let seeds: Vec<u64> = (0..n as u64).collect();
        let spectra = hessian(energy, &many, t, &Noise::seeds(&seeds).rademacher_like(&many)?, d, &mut || Ok(()))?;
        let truth = &truths[0];
        let limit = 0.5 * (truth[d / 2] + truth[d / 2 + 1]);
        let moments: [&dyn Fn(f64) -> f64; 3] = [&|v| v, &|v| v * v, &|v| f64::from(u8::from(v < limit))];
        for (k, moment) in moments.iter().enumerate() {
            let of = |s: &Spectrum| s.values.iter().zip(&s.weights).map(|(v, w)| w * moment(*v)).sum::<f64>();
            let estimates: Vec<f64> = spectra.iter().map(of).collect();
            let mean = estimates.iter().sum::<f64>() / n as f64;
            let error = (estimates.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / (n * (n - 1)) as f64).sqrt();
            let expected = truth.iter().map(|v| moment(*v)).sum::<f64>() / d as f64;
            assert!((mean - expected).abs() < 5. * error, "{name}, {k}: {mean} +- {error}, should be {expected}");
        }
    }
    Ok(())
}

#[test]
fn two_samples_are_compared_as_kolmogorov_has_it() -> Result<()> {
    // F - G after 1, 2, 3, 4: 1/3, 2/3 - 1/4, 2/3 - 3/4, 2/3 - 1
    let found = ks(&[1., 2., 5.], &[2., 3., 3., 4.])?;
    assert!((found.statistic - 5. / 12.).abs() < 1e-12, "{found:?}");
    assert_eq!(ks(&[1., 1.], &[1., 1., 1.])?.statistic, 0.);
    let apart = ks(&[1.; 500], &[2.; 500])?;
    assert!(apart.statistic == 1. && apart.p_value < 1e-100);
    // under one distribution p is uniform: as many below 0.5 as above
    let runs = 600;
    let below = (0..runs).filter(|&seed| {
        let z = to_host(&normal(&[1, 400], 50 + seed)).unwrap();
        ks(&z[..150], &z[150..]).unwrap().p_value < 0.5
    });
    let share = below.count() as f64 / runs as f64;
    assert!((share - 0.5).abs() < 5. * (0.25 / runs as f64).sqrt() + 0.03, "{share}");
    assert!(ks(&[], &[1.]).is_err() && ks(&[f64::NAN], &[1.]).is_err());
    Ok(())
}

#[test]
fn a_plane_goes_through_its_points() -> Result<()> {
    let points: Vec<Tensor> = (0..3).map(|i| normal(&[1, 2, 3], 10 + i)).collect();
    let plane = Plane::through(&points[0], &points[1], &points[2])?;
    let uv = Tensor::from_iter(plane.points().into_iter().flatten(), &Device::Cpu)?.reshape((3, 2))?;
    let back = plane.at(&uv)?;
    assert_eq!(back.dims(), [3, 2, 3]);
    let off = greatest(to_host(&(back - Tensor::cat(&points, 0)?)?)?.into_iter().map(f64::abs));
    assert!(off < 1e-12, "{off}");
    // distances are kept
    let unit = plane.at(&Tensor::new(&[[1., 2.], [4., 6.]], &Device::Cpu)?)?;
    let apart = (unit.narrow(0, 0, 1)? - unit.narrow(0, 1, 1)?)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
    assert!((apart - 25.).abs() < 1e-12);
    assert!(Plane::through(&points[0], &points[1], &points[1]).is_err());
    assert!(Plane::through(&points[0], &points[0], &points[1]).is_err());
    Ok(())
}

#[test]
fn maps_show_where_a_pixel_is_odd() -> Result<()> {
    // pixels independent, N(0, v): the score at noise s is -x / (v + s^2), and x0 = v / (v + s^2) x_t
    let v = 0.25;
    let mixture = Mixture::isotropic(&[1.], &[vec![0.; 24]], &[v])?;
    let process = Edm::default();
    let mut odd = vec![0.; 24]; // [2, 3, 4]: two channels
    (odd[6], odd[18]) = (2., 1.); // row 1, column 2 of both
    let x = Tensor::from_vec(odd, (1, 2, 3, 4), &Device::Cpu)?;
    let n = 400;
    let many = x.broadcast_as((n, 2, 3, 4))?.contiguous()?;
    let seeds: Vec<u64> = (0..n as u64).collect();
    let found = maps(&mixture.under(&process), &many, 0.5, &[0.3, 0.6], &mut Noise::seeds(&seeds))?;
    let gradient = to_host(&found.gradient.get(0)?)?;
    for (i, g) in gradient.iter().enumerate() {
        let expected = if i == 6 { 0.5 * 5f64.sqrt() / (v + 0.25) } else { 0. };
        assert!((g - expected).abs() < 1e-12);
    }
    let residual = to_host(&found.residual.mean(0)?)?;
    for (i, r) in residual.iter().enumerate() {
        let lost = |s: f64| {
            let k = v / (v + s * s);
            (1. - k).powi(2) * if i == 6 { 2.5 } else { 0. } + k * k * s * s
        };
        let expected = (lost(0.3) + lost(0.6)) / 2.;
        assert!((r - expected).abs() < 0.25 * expected, "{i}: {r} {expected}");
    }
    Ok(())
}

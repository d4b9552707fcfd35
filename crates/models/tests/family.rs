//! Laws of every registered family of densities, and files that hold them.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::distance;
use langevin_dynamics::Density;
use langevin_models::checkpoint::{self, Loaded};
use langevin_models::{AnyFamily, DensityModel, DensitySpec, ModelSpec, Rbm, RbmSpec, States};
use langevin_ops::grad;
use langevin_ops::noise::Noise;
use langevin_ops::shape::{scale, to_host};
use std::collections::BTreeMap;

const CPU: &Device = &Device::Cpu;

/// A family by its options as JSON, small.
fn spec(family: &AnyFamily, shape: &[usize]) -> DensitySpec {
    let mut json = serde_json::to_value(DensitySpec::new(shape, family.clone())).unwrap();
    let small = [
        ("hidden", serde_json::json!(5)),
        ("layers", serde_json::json!([3, 2])),
        ("widths", serde_json::json!([5, 4])),
    ];
    for (key, small) in small {
        if json.get(key).is_some() {
            json[key] = small;
        }
    }
    serde_json::from_value(json).unwrap()
}

fn models(shape: &[usize], dtype: DType) -> Result<Vec<DensityModel>> {
    AnyFamily::defaults().iter().map(|family| DensityModel::new(spec(family, shape), 3, dtype, CPU)).collect()
}

/// The same with weights that are not near 0.
fn strong(shape: &[usize]) -> Result<Vec<DensityModel>> {
    let stronger = |model: DensityModel| {
        let draw = |(seed, (name, t)): (usize, (String, Tensor))| {
            let row = Noise::seeds(&[seed as u64]).normal((1, t.elem_count()), DType::F64, CPU)?;
            Ok((name, row.reshape(t.shape())?))
        };
        let weights = model.weights().into_iter().enumerate().map(draw).collect::<Result<Vec<_>>>()?;
        model.with(weights)
    };
    models(shape, DType::F64)?.into_iter().map(stronger).collect()
}

/// Bits: data of any family of bits, and states of one with so many numbers.
fn states(n: usize, d: usize) -> Result<Tensor> {
    Noise::of_step(4, 0, n).bernoulli(&Tensor::zeros((n, d), DType::F64, CPU)?)
}

/// Numbers of a state.
fn numbers(model: &DensityModel) -> usize {
    model.spec.state_shape().iter().product()
}

#[test]
fn a_spec_is_one_table_and_names_what_it_does_not_know() {
    let old = r#"{"family":"rbm","shape":[1,28,28],"hidden":500}"#; // as files have said it from the first
    let spec: DensitySpec = serde_json::from_str(old).unwrap();
    assert_eq!((spec.shape.as_slice(), spec.family.name(), spec.states()), (&[1, 28, 28][..], "rbm", States::Bits));
    let (said, again): (serde_json::Value, serde_json::Value) =
        (serde_json::from_str(old).unwrap(), serde_json::to_value(&spec).unwrap());
    assert_eq!(said, again);
    for (json, words) in [
        (r#"{"family":"rbm","shape":[4],"hidden":3,"layers":2}"#, "layers"),
        (r#"{"family":"rbm","shape":[4],"hidden":"many"}"#, "hidden"),
        (r#"{"family":"rbn","shape":[4]}"#, "unknown family `rbn`; one of: rbm, dbm"),
        (r#"{"family":"rbm"}"#, "`shape`"),
        (r#"{"family":"rbm","shape":"wide"}"#, "shape"),
        (r#"{"shape":[4]}"#, "`family`"),
        (r#"{"family":"rbm","name":"rbm","shape":[4]}"#, "`name`"),
        (r#"{"family":4,"shape":[4]}"#, "family"),
        ("[]", "map"),
    ] {
        let why = serde_json::from_str::<DensitySpec>(json).unwrap_err().to_string();
        assert!(why.contains(words), "{json}: {why}");
    }
}

#[test]
fn specs_that_make_no_sense_are_refused() {
    for family in AnyFamily::defaults() {
        for shape in [vec![], vec![0], vec![1; 5], vec![1 << 20, 1 << 20], vec![usize::MAX, usize::MAX]] {
            let spec = DensitySpec::new(shape.clone(), family.clone());
            assert!(spec.parameters().is_err() && spec.validate().is_err(), "{shape:?}");
            assert!(DensityModel::new(spec, 0, DType::F32, CPU).is_err());
        }
        let spec = DensitySpec::new([1, 4, 4], family.clone());
        let model = DensityModel::new(spec.clone(), 0, DType::F32, CPU).unwrap();
        assert_eq!(spec.parameters().unwrap(), model.parameters() as u64);
    }
}

#[test]
fn files_give_every_family_back_and_either_kind_opens() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model.safetensors");
    for model in strong(&[1, 2, 3])? {
        model.save(&path, &BTreeMap::from([("note".to_string(), "own".to_string())]))?;
        let (loaded, texts) = checkpoint::open(&path, DType::F64, CPU)?;
        let Loaded::Density(again) = loaded else { panic!("it is a density") };
        assert_eq!(texts.get("note").map(String::as_str), Some("own"));
        assert_eq!(serde_json::to_value(&again.spec).unwrap(), serde_json::to_value(&model.spec).unwrap());
        for ((a, x), (b, y)) in model.vars().iter().zip(again.vars()) {
            assert!(a == b && to_host(x)? == to_host(y)?, "{a}");
        }
        let why = checkpoint::load(&path, DType::F32, CPU).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(why.contains(model.spec.family.name()) && why.contains("denoises"), "{why}");
        // with one tensor more or less
        let mut weights = model.weights();
        weights.push(("more".into(), Tensor::zeros(1, DType::F64, CPU)?));
        assert!(model.with(weights.clone()).is_err_and(|e| e.to_string().contains("`more`")));
        checkpoint::save(&path, &model.spec, &weights, &BTreeMap::new())?;
        assert!(checkpoint::open(&path, DType::F64, CPU).is_err_and(|e| e.to_string().contains("`more`")));
        assert!(model.with(weights.into_iter().skip(2)).is_err_and(|e| e.to_string().contains("lack")));
    }
    let spec = ModelSpec::energy([2]);
    let model = langevin_models::Model::new(spec, 0, DType::F32, CPU)?;
    checkpoint::save(&path, &model.spec, &checkpoint::weights(&model), &BTreeMap::new())?;
    assert!(matches!(checkpoint::open(&path, DType::F32, CPU)?.0, Loaded::Denoising(_)));
    let why = checkpoint::load_density(&path, DType::F32, CPU).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(why.contains("a model that denoises"), "{why}");
    Ok(())
}

#[test]
fn a_file_of_another_version_is_refused_in_one_line() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model.safetensors");
    for json in [r#"{"family":"none","shape":[4]}"#, r#"{"family":"rbm","shape":[4],"hidden":2,"sparsity":1}"#] {
        let spec: serde_json::Value = serde_json::from_str(json).unwrap();
        checkpoint::save(&path, &spec, &[], &BTreeMap::new())?;
        let why = checkpoint::open(&path, DType::F32, CPU).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(why.contains("cannot read") && !why.contains('\n'), "{why}");
    }
    Ok(())
}

#[test]
fn a_copy_has_weights_of_its_own() -> Result<()> {
    for model in strong(&[6])? {
        let copy = model.with(model.weights())?;
        let x = states(7, numbers(&model))?;
        let energy = |m: &DensityModel| to_host(&m.as_energy().unwrap().energy(&x)?.detach());
        let before = energy(&model)?;
        assert_eq!(before, energy(&copy)?);
        let (_, var) = &model.vars()[0];
        var.set(&(var.as_tensor() + 1.)?)?;
        assert!(energy(&model)? != before && energy(&copy)? == before);
    }
    Ok(())
}

#[test]
fn closed_gradients_are_those_of_the_energy() -> Result<()> {
    for model in strong(&[6])? {
        let (x, factors) = (states(9, numbers(&model))?, (0..9).map(|i| f64::from(i).cos()).collect::<Vec<_>>());
        let Some((energies, closed)) = model.body().energy_gradient(&x, &factors)? else { continue };
        let energy = model.as_energy().expect("what has a gradient has an energy");
        let vars: Vec<_> = model.vars().iter().map(|(_, var)| var.clone()).collect();
        let (_, by_graph) = grad::value_and_grad(&vars, || scale(&energy.energy(&x)?, &factors)?.sum_all())?;
        let values = to_host(&energy.energy(&x)?.detach())?;
        assert!(energies.iter().zip(values).all(|(a, b)| (a - b).abs() < 1e-12));
        assert_eq!(closed.len(), by_graph.len());
        for (a, b) in closed.iter().zip(&by_graph) {
            assert!(distance(a, b)? < 1e-12);
        }
        if let Some(offsets) = model.body().unit_means(&x)? {
            // centred at 0 units are as they were
            let none: Vec<Tensor> = offsets.iter().map(Tensor::zeros_like).collect::<Result<_>>()?;
            let shapes: Vec<_> = closed.iter().map(|g| g.dims().to_vec()).collect();
            for (a, b) in model.body().centred(closed.clone(), &none)?.iter().zip(&closed) {
                assert!(distance(a, b)? < 1e-12);
            }
            let centred = model.body().centred(closed, &offsets)?;
            assert!(centred.iter().zip(shapes).all(|(g, shape)| g.dims() == shape));
            assert!(model.body().centred(centred, &[]).is_err());
        }
    }
    Ok(())
}

/// ln of the sum over all of their states, which are bits.
fn sum_of_all(model: &DensityModel) -> Result<f64> {
    let n = numbers(model);
    let shape = [&[1 << n], model.spec.state_shape().as_slice()].concat();
    let all = langevin_models::rbm::binary(0, 1 << n, n, CPU)?.reshape(shape)?;
    Ok(model.log_f(&all)?.iter().map(|log_f| log_f.exp()).sum::<f64>().ln())
}

#[test]
fn what_a_family_says_of_itself_is_so() -> Result<()> {
    for model in strong(&[1, 2, 3])? {
        if let Some(log_z) = model.body().log_z_exact()? {
            assert!((log_z - sum_of_all(&model)?).abs() < 1e-10);
        }
        let x = model.body().begin(4, &mut Noise::seeds(&[1, 2, 3, 4]))?;
        assert_eq!(x.dims()[1..], model.spec.state_shape());
        assert_eq!(model.spec.data_of(&x)?.dims(), [4, 1, 2, 3]);
        let alone = model.body().begin(1, &mut Noise::seeds(&[3]))?;
        assert_eq!(to_host(&alone)?, to_host(&x.get(2)?)?);
        assert!(model.spec.states() != States::Bits || to_host(&x)?.iter().all(|x| *x == 0. || *x == 1.));
        if let Some(filters) = model.body().filters()? {
            assert_eq!(filters.dims()[1..], [1, 2, 3]);
        }
        if let Some(smoothed) = model.body().smoothed(&x)? {
            assert_eq!(smoothed.dims(), x.dims());
            assert!(model.spec.states() != States::Bits || to_host(&smoothed)?.iter().all(|p| (0. ..=1.).contains(p)));
        }
        // data with latent units beside them are states
        let data = model.spec.data_of(&x)?;
        for states in [model.completed(&data)?, model.completed_by(&data, 3, &mut Noise::seeds(&[1, 2, 3, 4]))?] {
            assert_eq!(states.dims(), x.dims());
            assert_eq!(to_host(&model.spec.data_of(&states)?)?, to_host(&data)?);
        }
        if model.spec.states() == States::Bits {
            let all = langevin_models::rbm::binary(0, 64, 6, CPU)?.reshape((64, 1, 2, 3))?;
            let total: f64 = model.log_p(&all, sum_of_all(&model)?)?.iter().map(|log_p| log_p.exp()).sum();
            assert!((total - 1.).abs() < 1e-10, "{total}");
        }
        if let Some(features) = model.body().features(&data)? {
            assert_eq!((features.dims()[0], features.rank()), (4, 2));
        }
        if let Some(ladder) = model.body().ladder(Some(&vec![0.3; numbers(&model)]), 4)? {
            assert_eq!(ladder.rungs(), 4);
            let last = ladder.density(3).evaluate(&x)?;
            let off = last.energy()?.iter().zip(model.evaluate(&x)?.energy()?.to_vec()).map(|(a, b)| (a - b).abs());
            assert!(off.fold(0., f64::max) < 1e-10, "the last rung is the density itself");
            let start = ladder.start(&x, 0., &mut Noise::seeds(&[1, 2, 3, 4]))?;
            assert_eq!((start.dims(), ladder.log_start(&start, 0.)?.len()), (x.dims(), 4));
            assert!(model.ladder(Some(&[0.3; 5]), 4).is_err() && model.ladder(None, 1).is_err());
        }
    }
    Ok(())
}

#[test]
fn filters_are_the_weights_of_hidden_units() -> Result<()> {
    let spec: DensitySpec = serde_json::from_str(r#"{"family":"rbm","shape":[1,2,2],"hidden":3}"#).unwrap();
    let model = DensityModel::new(spec, 5, DType::F32, CPU)?;
    let rbm = Rbm::new(RbmSpec::new([1, 2, 2], 3), 5, DType::F32, CPU)?;
    let weight = &rbm.vars()[2].1;
    for h in 0..3 {
        assert_eq!(to_host(&model.filters()?.get(h)?)?, to_host(&weight.narrow(1, h, 1)?.contiguous()?)?);
    }
    let x = model.body().begin(5, &mut Noise::of_step(0, 0, 5))?;
    assert_eq!(to_host(&model.features(&x)?)?, to_host(&rbm.hidden(&x)?)?);
    let smoothed = model.body().smoothed(&x)?.map(|t| to_host(&t)).transpose()?;
    assert_eq!(smoothed, Some(to_host(&rbm.visible(&rbm.hidden(&x)?)?)?));
    Ok(())
}

#[test]
fn data_become_bits_and_bits_are_shown() -> Result<()> {
    for family in AnyFamily::defaults().into_iter().filter(|family| family.get().states() == States::Bits) {
        let images = spec(&family, &[1, 1, 3]);
        let x = Tensor::new(&[[[[-1f32, -0.1, 0.2]]]], CPU)?;
        let bits = images.states_of(&x)?;
        assert_eq!(to_host(&bits)?, [0., 0., 1.]);
        assert_eq!(to_host(&images.shown(&bits)?)?, [-1., -1., 1.]);
        assert_eq!(to_host(&images.states_of(&images.shown(&bits)?)?)?, to_host(&bits)?);
        let rows = spec(&family, &[3]);
        let x = Tensor::new(&[[0f32, 1., 1.], [1., 0., 0.]], CPU)?;
        assert_eq!(to_host(&rows.shown(&rows.states_of(&x)?)?)?, to_host(&x)?);
        let why = rows.states_of(&Tensor::new(&[[0f32, 1., 1.], [1., 0.5, 0.]], CPU)?).unwrap_err().to_string();
        assert!(why.contains("row 2, column 2 is 0.5"), "{why}");
        assert!(rows.states_of(&Tensor::new(&[[0f32, 1.]], CPU)?).is_err());
    }
    Ok(())
}

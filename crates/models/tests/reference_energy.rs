//! Energy, score and the parameter gradients of the score loss against PyTorch's double backward.
#![allow(clippy::print_stdout)]

mod common;

use candle_core::{DType, Device, Result, Tensor, bail};
use langevin_dynamics::Cond;
use langevin_models::energy::{Form, raw_energy};
use langevin_models::{diffusers, plain, tensors};
use langevin_ops::grad;
use langevin_ops::shape::sum_per_sample;
use std::collections::BTreeMap;
use std::path::Path;

/// Energy, score, loss = mean of |score - target|^2 / 2, and the gradient of the loss in every parameter.
fn computed(case: &Path, form: Form, io: &BTreeMap<String, Tensor>, dtype: DType) -> Result<BTreeMap<String, Tensor>> {
    let network = diffusers::open(case, dtype, &Device::Cpu)?;
    let get = |name: &str| io[name].to_dtype(dtype);
    let (x, t, target) = (get("sample")?, get("timestep")?, get("target")?);
    let cond = Cond::class(io.get("class_labels").cloned());
    let vars: Vec<_> = network.vars.iter().map(|(_, var)| var.clone()).collect();
    let mut seen = None;
    let (loss, gradients) = grad::value_and_grad(&vars, || {
        let (_, gradient) = grad::gradient(&x, |x| raw_energy(&network.net, form, x, &t, &cond))?;
        let score = gradient.neg()?;
        seen = Some(score.detach());
        sum_per_sample(&(score - &target)?.sqr()?)?.mean_all()? * 0.5
    })?;
    let Some(score) = seen else { bail!("the loss was not evaluated") };
    let energy = raw_energy(&network.net, form, &x, &t, &cond)?.detach();
    let mut all = BTreeMap::from([
        ("energy".to_string(), energy),
        ("score".to_string(), score),
        ("loss".to_string(), loss.reshape(1)?),
    ]);
    all.extend(network.vars.iter().zip(gradients).map(|((name, _), g)| (format!("grad.{name}"), g)));
    Ok(all)
}

#[test]
fn reference_energy() -> Result<()> {
    let (mut done, mut wrong) = (0, vec![]);
    for case in common::cases("energy") {
        let name = common::name(&case);
        let form = [Form::Residual, Form::InnerProduct, Form::SquaredNorm]
            .into_iter()
            .zip(["residual", "inner-product", "squared-norm"])
            .find(|(_, form)| name.ends_with(form));
        let Some((form, _)) = form else {
            println!("energy/{name}: UNSUPPORTED: the name ends in no form of energy");
            continue;
        };
        let io = tensors::load(&case.join("io.safetensors"))?.tensors;
        let given = |name: &String| matches!(name.as_str(), "sample" | "timestep" | "target" | "class_labels");
        let expected: BTreeMap<_, _> =
            io.iter().filter(|(name, _)| !given(name)).map(|(k, v)| (k.clone(), v.clone())).collect();
        for (dtype, most) in [(DType::F64, 1e-8), (DType::F32, 1e-3)] {
            let ours = match computed(&case, form, &io, dtype) {
                Err(e) if plain(&e).contains("not supported") => {
                    println!("energy/{name}: UNSUPPORTED: {}", plain(&e));
                    break;
                }
                ours => ours?,
            };
            let (error, of) = common::error(&ours, &expected)?;
            println!("energy/{name} {dtype:?}: error {error:.1e} ({of}), {} tensors", expected.len());
            done += 1;
            if error.is_nan() || error > most {
                wrong.push(format!("{name} {dtype:?}: {error:.1e} ({of})"));
            }
        }
    }
    assert!(done > 0, "every case is unsupported");
    assert!(wrong.is_empty(), "too far off: {wrong:?}");
    Ok(())
}

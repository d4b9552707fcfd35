//! What a model says of given tensors.
//!
//! A network alone, and a form of energy, take the network's own inputs, as diffusers passes them; the denoiser, the
//! score and the energy of a model with a process take x_t and t.

use crate::error::{Usage, usage};
use crate::likelihood::{self, Points};
use crate::open;
use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};
use langevin_dynamics::{Cond, Denoiser, Net};
use langevin_models::energy::raw_energy;
use langevin_models::unet::ClassInput;
use langevin_models::{Form, Model, diffusers};
use langevin_ops::grad;
use langevin_ops::shape::to_host;
use std::path::Path;

/// What can be asked.
pub const WHAT: [&str; 6] = ["output", "x0", "eps", "score", "energy", "logp"];

/// How the energy of a plain network is made, by its name.
pub fn form(name: &str) -> Result<Form> {
    match name {
        "residual" => Ok(Form::Residual),
        "inner-product" => Ok(Form::InnerProduct),
        "squared-norm" => Ok(Form::SquaredNorm),
        _ => usage(Usage::of("energy", "use residual, inner-product or squared-norm").value(name)),
    }
}

/// What the model is asked about.
pub struct Input {
    /// The samples, `[B, ...]`.
    pub x: Tensor,
    t: Option<Vec<f64>>,
    cond: Cond,
    file: String,
}

impl Input {
    /// The tensors of the safetensors file at `path`: `sample`, and `timestep` and `class_labels` if they are there.
    ///
    /// Errors, naming the file and the tensor, if one is not as a model takes it.
    pub fn read(path: &Path, device: &Device) -> Result<Self> {
        let file = path.display().to_string();
        if !path.is_file() {
            return usage(Usage::of("input", "there is no such file").value(file));
        }
        let mut tensors = match candle_core::safetensors::load(path, &Device::Cpu) {
            Ok(tensors) => tensors,
            Err(_) => bail!("{file} is not a whole safetensors file"),
        };
        let Some(x) = tensors.remove("sample") else {
            let names: Vec<_> = tensors.keys().map(String::as_str).collect();
            bail!(
                "{file} has no tensor `sample`; it has {}",
                if names.is_empty() { "none".into() } else { names.join(", ") }
            );
        };
        if !matches!(x.dtype(), DType::F32 | DType::F64) {
            bail!("{file}: `sample` is {:?}; give f32 or f64", x.dtype());
        }
        if x.rank() < 2 || x.elem_count() == 0 {
            bail!("{file}: `sample` has shape {:?}; give [B, C, H, W], or [B, D] for points and tables", x.dims());
        }
        let batch = x.dim(0)?;
        let per_sample = |t: &Tensor, name: &str| -> Result<Vec<f64>> {
            let v = to_host(t)?;
            match v.len() {
                n if n == batch => Ok(v),
                1 => Ok(vec![v[0]; batch]),
                n => bail!("{file}: `{name}` holds {n} numbers for a batch of {batch}; give one, or one a sample"),
            }
        };
        let t = tensors.get("timestep").map(|t| per_sample(t, "timestep")).transpose()?;
        let labels = match tensors.get("class_labels") {
            // networks that are told an embedding as their class; they check its shape
            Some(t) if t.rank() == 2 => Some(t.to_device(device)?),
            Some(t) => {
                let labels = Tensor::new(per_sample(t, "class_labels")?, &Device::Cpu)?;
                Some(labels.to_dtype(DType::F32)?.to_device(device)?)
            }
            None => None,
        };
        Ok(Self { x: x.to_device(device)?, t, cond: Cond::class(labels), file })
    }

    fn times(&self) -> Result<&[f64]> {
        match &self.t {
            Some(t) => Ok(t),
            None => bail!("{} has no tensor `timestep`, which the model needs", self.file),
        }
    }

    /// The shape of a sample and the classes must be those of the model.
    fn check(&self, shape: &[usize], classes: Option<usize>) -> Result<()> {
        if self.x.dims()[1..] != *shape {
            bail!("{}: `sample` has shape {:?}; the model takes [B, {}]", self.file, self.x.dims(), list(shape));
        }
        self.check_classes(classes)
    }

    fn check_classes(&self, classes: Option<usize>) -> Result<()> {
        match (classes, self.cond.labels()) {
            (Some(n), None) => {
                bail!("{} has no tensor `class_labels`; give the class of each, 0 to {}", self.file, n - 1)
            }
            (None, Some(_)) => bail!("{} has `class_labels`, but the model was trained without classes", self.file),
            (Some(n), Some(labels)) => {
                match to_host(labels)?.iter().find(|&&c| !(c >= 0. && c < n as f64 && c.fract() == 0.)) {
                    Some(c) => bail!("{}: class {c}; the model has the whole numbers 0 to {}", self.file, n - 1),
                    None => Ok(()),
                }
            }
            (None, None) => Ok(()),
        }
    }
}

fn list(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

/// What answers.
pub enum Source {
    /// A model with a process.
    Model(Box<Model>),
    /// A network alone, of a folder of diffusers.
    Network(Box<diffusers::Network>),
}

impl Source {
    /// What `name` names, in `dtype`.
    pub fn open(name: &str, dtype: DType, device: &Device) -> Result<Self> {
        if let Some(folder) = open::network_folder(name)? {
            return Ok(Self::Network(Box::new(open::network(&folder, dtype, device)?)));
        }
        Ok(Self::Model(Box::new(open::open_as(name, None, dtype, device)?.model)))
    }

    /// The tensors called `what`, in order; `form` makes an energy of a network's output.
    ///
    /// Errors before anything is computed if it has not all of them.
    pub fn answer(&self, what: &[String], form: Option<Form>, input: &Input) -> Result<Vec<Tensor>> {
        match (self, form) {
            (Self::Network(n), _) => {
                let c = &n.config;
                if input.x.rank() != 4 || input.x.dim(1)? != c.inputs {
                    bail!(
                        "{}: `sample` has shape {:?}; the network takes [B, {}, H, W]",
                        input.file,
                        input.x.dims(),
                        c.inputs
                    );
                }
                if c.unet.class == ClassInput::Table {
                    input.check_classes(c.classes)?;
                }
                if form.is_some() && c.inputs != c.outputs {
                    bail!(
                        "--energy: the network has {} channels in and {} out; an energy needs as many",
                        c.inputs,
                        c.outputs
                    );
                }
                what.iter().try_for_each(|what| suits_network(form, what, input))?;
                what.iter().map(|what| of_network(&n.net, form, what, input)).collect()
            }
            (Self::Model(model), Some(_)) => {
                input.check(&model.spec.shape, model.spec.labels())?;
                what.iter().try_for_each(|what| suits_network(form, what, input))?;
                what.iter().map(|what| of_network(model.inner(), form, what, input)).collect()
            }
            (Self::Model(model), None) => {
                input.check(&model.spec.shape, model.spec.labels())?;
                what.iter().try_for_each(|what| suits_model(model, what, input))?;
                let denoiser = model.denoiser(input.cond.clone())?;
                what.iter().map(|what| of_model(model, &denoiser, what, input)).collect()
            }
        }
    }
}

/// Errors if a network, with a form of energy or without, does not answer `what`.
fn suits_network(form: Option<Form>, what: &str, input: &Input) -> Result<()> {
    match (what, form) {
        ("energy" | "score", None) => usage(
            Usage::of("what", "this folder is a network alone; say --energy residual, or another form").value(what),
        ),
        ("output" | "energy" | "score", _) => input.times().map(|_| ()),
        _ => usage(
            Usage::of("what", "a network without a process has output, and energy and score with --energy").value(what),
        ),
    }
}

/// A network in its own inputs; with a form, its raw energy E and the score -grad_x E.
fn of_network(net: &dyn Net, form: Option<Form>, what: &str, input: &Input) -> Result<Tensor> {
    let c_noise = Tensor::new(input.times()?, input.x.device())?.to_dtype(input.x.dtype())?;
    Ok(match form.filter(|_| what != "output") {
        None => net.forward(&input.x, &c_noise, &input.cond)?.detach(),
        Some(form) if what == "energy" => raw_energy(net, form, &input.x, &c_noise, &input.cond)?.detach(),
        Some(form) => grad::gradient(&input.x, |x| raw_energy(net, form, x, &c_noise, &input.cond))?.1.neg()?,
    })
}

/// Errors if a model with a process does not answer `what`.
fn suits_model(model: &Model, what: &str, input: &Input) -> Result<()> {
    match what {
        "output" => return input.times().map(|_| ()),
        "logp" => return times_of_log_p(model, input).map(|_| ()),
        "energy" => likelihood::needs_energy(model, false).or_else(|why| bail!("--what energy: {why}"))?,
        _ => {}
    }
    let (t, (low, high)) = (input.times()?, model.spec.process.get().span());
    if let Some(t) = t.iter().find(|&&t| !(t > 0. && t <= high * (1. + 1e-6))) {
        bail!("{}: time {t} lies outside the process, which goes from {low} to {high}", input.file);
    }
    Ok(())
}

/// The times that log p is asked at: without `timestep` the least noisy one of the process.
fn times_of_log_p(model: &Model, input: &Input) -> Result<Vec<f64>> {
    likelihood::refuse(model)?;
    let (low, high) = model.spec.process.get().span();
    let t = input.t.clone().unwrap_or(vec![low]);
    if let Some(t) = t.iter().find(|&&t| !(t >= low * (1. - 1e-6) && t < high)) {
        bail!("{}: time {t} has no log p here; give times of the process, from {low} to below {high}", input.file);
    }
    Ok(t.into_iter().map(|t| t.max(low)).collect())
}

/// log p_t(x) `[B]`. Without `timestep`, t is the least noisy time of the process.
fn log_p(model: &Model, input: &Input) -> Result<Tensor> {
    let t = times_of_log_p(model, input)?;
    let labels = match input.cond.labels() {
        Some(labels) => Some(to_host(labels)?.into_iter().map(|label| label as u32).collect()),
        None => None,
    };
    let log_p = likelihood::log_p(model, &Points { x: input.x.clone(), labels, t })?;
    Ok(Tensor::new(log_p, input.x.device())?.to_dtype(input.x.dtype())?)
}

/// A model with a process, at x_t and t; `output` in the network's own inputs.
fn of_model(model: &Model, denoiser: &dyn Denoiser, what: &str, input: &Input) -> Result<Tensor> {
    if what == "output" {
        let c_noise = Tensor::new(input.times()?, input.x.device())?.to_dtype(input.x.dtype())?;
        return Ok(model.net().forward(&input.x, &c_noise, &input.cond)?.detach());
    }
    if what == "logp" {
        return log_p(model, input);
    }
    let t = input.times()?;
    Ok(match what {
        "x0" => denoiser.x0(&input.x, t)?,
        "eps" => denoiser.eps(&input.x, t)?,
        "score" => denoiser.score(&input.x, t)?,
        _ => model.energy(&input.x, t, &input.cond)?,
    }
    .detach())
}

//! What is known of samples beside themselves: tensors by name, such as the class, a vector or an image.

use candle_core::{Device, Result, Tensor, bail};
use std::collections::BTreeMap;

/// The name of the class.
const CLASS: &str = "class";

/// Tensors by name, each `[B, ...]`, one row a sample, or `[1, ...]`, one for all samples of any batch.
#[derive(Clone, Debug, Default)]
pub struct Conditions(BTreeMap<String, Tensor>);

impl Conditions {
    /// The class of each sample: `[B]` u32, or what the model takes in its place, such as an embedding `[B, D]`. Nothing for
    /// `None`.
    pub fn class(labels: impl Into<Option<Tensor>>) -> Self {
        Self::default().with(CLASS, labels)
    }

    /// The same with `tensor` under `name`, in the place of what was there; without it for `None`.
    pub fn with(mut self, name: &str, tensor: impl Into<Option<Tensor>>) -> Self {
        match tensor.into() {
            Some(tensor) => drop(self.0.insert(name.into(), tensor)),
            None => drop(self.0.remove(name)),
        }
        self
    }

    /// The same with another class of each sample, or none.
    pub fn with_class(self, labels: impl Into<Option<Tensor>>) -> Self {
        self.with(CLASS, labels)
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// The class of each sample.
    pub fn labels(&self) -> Option<&Tensor> {
        self.get(CLASS)
    }

    /// All names and tensors.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, t)| (name.as_str(), t))
    }

    /// Whether one of them has a row for each sample of a batch.
    pub fn per_sample(&self) -> bool {
        self.0.values().any(|t| t.dims().first() != Some(&1))
    }

    /// The rows `start..start + len` of all that have a row for each sample.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        self.map(|t| if t.dim(0)? == 1 { Ok(t.clone()) } else { t.narrow(0, start, len) })
    }

    /// All of them on `device`.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        self.map(|t| t.to_device(device))
    }

    fn map(&self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        self.0.iter().map(|(name, t)| Ok((name.clone(), f(t)?))).collect::<Result<_>>().map(Self)
    }

    /// Errors, naming it, if there is one that is not among `known`: for networks, which must not pass over what they are told.
    pub fn only(&self, known: &[&str]) -> Result<()> {
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(_) if known.is_empty() && self.labels().is_some() => {
                bail!("labels were given to a model without classes; leave them out")
            }
            Some(name) => bail!(
                "this model does not know the condition `{name}`; it takes {}",
                if known.is_empty() { "none".into() } else { known.join(", ") }
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_told_by_name_and_refused_by_name() -> Result<()> {
        let rows = |n: usize| Tensor::arange(0u32, n as u32, &Device::Cpu);
        let image = Tensor::zeros((4, 1, 2, 2), candle_core::DType::F32, &Device::Cpu)?;
        let all = Conditions::class(rows(4)?).with("image", image);
        assert_eq!(all.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["class", "image"]);
        let part = all.narrow(1, 2)?;
        assert_eq!(part.labels().map(Tensor::to_vec1::<u32>).transpose()?, Some(vec![1, 2]));
        assert_eq!(part.get("image").map(Tensor::dims), Some([2, 1, 2, 2].as_slice()));
        let one = Conditions::class(rows(1)?);
        assert!(all.per_sample() && !one.per_sample() && one.narrow(3, 2)?.labels().is_some());
        assert!(all.only(&["class", "image"]).is_ok() && Conditions::class(None).only(&[]).is_ok());
        let said = |conditions: &Conditions, known: &[&str]| conditions.only(known).unwrap_err().to_string();
        assert!(said(&all, &["class"]).contains("`image`; it takes class"));
        assert!(said(&one, &[]).contains("without classes"));
        Ok(())
    }
}

//! Names of classes: those of published data sets, and the labels of one data set as the numbers of another's classes.

use crate::{Batch, Columns, Dataset, Kind, facts::list};
use candle_core::{Device, Result, Tensor};

/// The published names of the ten classes of `set`, in the order of their labels.
pub(crate) fn of(set: &str) -> Vec<String> {
    let names = match set {
        "fashion-mnist" => {
            ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
        }
        "cifar10" => ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
        _ => ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"], // digits
    };
    names.map(String::from).to_vec()
}

/// For each of the classes `theirs` its place among the classes `own`, by name. An error names the first that is not there.
pub fn places(own: &[String], theirs: &[String]) -> Result<Vec<u32>> {
    let place = |name: &String| match own.iter().position(|known| known == name) {
        Some(place) => Ok(place as u32),
        None => bail!("it has the class {name:?}, which is none of the model's: {}", list(own)),
    };
    theirs.iter().map(place).collect()
}

/// A data set whose labels are the numbers of a model's classes.
pub struct Relabelled {
    of: Box<dyn Dataset>,
    to: Vec<u32>,
    classes: usize,
    names: Option<Vec<String>>,
}

impl Relabelled {
    /// `of` with its classes matched by name to the classes `names`. An error if it has a class that is not among them, or
    /// its classes have no names.
    pub fn by_name(of: Box<dyn Dataset>, names: &[String]) -> Result<Self> {
        let Some(theirs) = of.class_names() else { bail!("its classes have no names to match by") };
        let to = places(names, theirs)?;
        Ok(Self { of, to, classes: names.len(), names: Some(names.to_vec()) })
    }

    /// `of` with its classes taken for the first of `classes` by their numbers; these are called `names`, if they have names.
    /// An error if it has more.
    pub fn by_number(of: Box<dyn Dataset>, classes: usize, names: Option<&[String]>) -> Result<Self> {
        match of.classes() {
            Some(n) if n <= classes => {
                Ok(Self { of, to: (0..n as u32).collect(), classes, names: names.map(<[String]>::to_vec) })
            }
            Some(n) => bail!("it has {n} classes, the model {classes}"),
            None => bail!("it has no classes, the model {classes}"),
        }
    }
}

impl Dataset for Relabelled {
    fn kind(&self) -> Kind {
        self.of.kind()
    }

    fn len(&self) -> usize {
        self.of.len()
    }

    fn shape(&self) -> &[usize] {
        self.of.shape()
    }

    fn classes(&self) -> Option<usize> {
        Some(self.classes)
    }

    fn class_names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }

    fn get(&self, idx: &[usize]) -> Result<Batch> {
        let Batch { x, conditions } = self.of.get(idx)?;
        let to = |labels: Tensor| -> Result<Tensor> {
            let labels = labels.to_vec1::<u32>()?.into_iter().map(|label| self.to.get(label as usize).copied());
            match labels.collect::<Option<Vec<u32>>>() {
                Some(labels) => Tensor::new(labels, &Device::Cpu),
                None => bail!("a label is not below the number of classes"),
            }
        };
        let labels = conditions.labels().cloned().map(to).transpose()?;
        Ok(Batch { x, conditions: conditions.with_class(labels) })
    }

    fn notes(&self) -> Vec<String> {
        self.of.notes()
    }

    fn files(&self) -> Option<&[String]> {
        self.of.files()
    }

    fn columns(&self) -> Option<&Columns> {
        self.of.columns()
    }
}

//! What is kept of the data that a model learnt, so that they are known again: names of classes and columns, a fingerprint.

use crate::{Columns, Dataset};
use candle_core::Result;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Numbers that are hashed at a time.
const AT_ONCE: usize = 1 << 20;

/// Facts of a data set that its samples alone do not carry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The number of samples.
    pub samples: usize,
    /// The shape of one sample, `[C, H, W]` or `[D]`.
    pub shape: Vec<usize>,
    /// The number of classes, where samples have labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    /// The names of the classes in the order of their labels, where they have names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_names: Option<Vec<String>>,
    /// The names of a table's columns, and how they are scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
    /// The standard deviation by which the model scales its input, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigma_data: Option<f64>,
    /// SHA-256 of all samples and their classes in order.
    pub fingerprint: String,
}

impl Facts {
    /// The facts of `data`, all of whose samples are read. `sigma_data` is left out: see [`crate::std`].
    pub fn of(data: &dyn Dataset) -> Result<Self> {
        Ok(Self {
            samples: data.len(),
            shape: data.shape().to_vec(),
            classes: data.classes(),
            class_names: data.class_names().map(<[String]>::to_vec),
            columns: data.columns().cloned(),
            sigma_data: None,
            fingerprint: fingerprint(data)?,
        })
    }

    /// In what `now` differs from these data, in words such as `5 samples, not 4`; `None` if they are the same.
    pub fn difference(&self, now: &Facts) -> Option<String> {
        let mut all = vec![];
        if now.samples != self.samples {
            all.push(format!("{} samples, not {}", now.samples, self.samples));
        }
        if now.shape != self.shape {
            all.push(format!("samples of shape {:?}, not {:?}", now.shape, self.shape));
        }
        if (now.classes, &now.class_names) != (self.classes, &self.class_names) {
            all.push(format!("{}, not {}", now.of_classes(), self.of_classes()));
        }
        if now.of_columns() != self.of_columns() {
            all.push(format!("{}, not {}", now.of_columns(), self.of_columns()));
        }
        if all.is_empty() && now.fingerprint != self.fingerprint {
            all.push("other contents: values, labels or their order".into());
        }
        (!all.is_empty()).then(|| all.join(", and "))
    }

    /// The classes in words.
    fn of_classes(&self) -> String {
        match (&self.class_names, self.classes) {
            (Some(names), _) => format!("the classes {}", list(names)),
            (None, Some(n)) => format!("{n} classes without names"),
            (None, None) => "no classes".into(),
        }
    }

    /// The columns in words.
    fn of_columns(&self) -> String {
        match &self.columns {
            Some(columns) => format!("the columns {}", list(&columns.names)),
            None => "no columns".into(),
        }
    }
}

/// Names for a message: the first twenty, and how many more there are.
pub fn list(names: &[String]) -> String {
    const MOST: usize = 20;
    let some = names.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MOST) {
        0 => some,
        more => format!("{some} and {more} more"),
    }
}

/// SHA-256 of the shape, and of the numbers and classes of all samples in order, in hexadecimal. Classes that have names
/// count by these, so that it is the same under every numbering.
fn fingerprint(data: &dyn Dataset) -> Result<String> {
    let mut hash = Sha256::new();
    for side in data.shape() {
        hash.update((*side as u64).to_le_bytes());
    }
    let each = data.shape().iter().product::<usize>().max(1);
    let all: Vec<usize> = (0..data.len()).collect();
    for some in all.chunks((AT_ONCE / each).max(1)) {
        let batch = data.get(some)?;
        let x: Vec<f32> = batch.x.flatten_all()?.to_vec1()?;
        hash.update(bytes(&x));
        let labels = batch.labels().map(|labels| labels.to_vec1::<u32>()).transpose()?;
        for label in labels.unwrap_or_default() {
            match data.class_names().and_then(|names| names.get(label as usize)) {
                Some(name) => hash.update(format!("{name}\n")),
                None => hash.update(label.to_le_bytes()),
            }
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn bytes(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; 4 * values.len()];
    for (four, value) in bytes.chunks_exact_mut(4).zip(values) {
        four.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

//! The class of the samples, and guidance, as options.

use anyhow::Result;
use clap::Args;
use langevin::error::{Usage, usage};
use langevin::sample::{self, interval};

/// The class of the samples, and guidance
#[derive(Args, Clone, Debug, Default)]
pub struct Guiding {
    /// Class of every sample, by its name or number, for a class-conditional model; `none` for one trained with
    /// train.label_dropout. A class that is called 3 comes before the number 3
    #[arg(long, value_name = "CLASS|none")]
    pub class: Option<String>,
    /// Weight of guidance: 1 is none, more goes further away from the guide, which is the model without a class
    #[arg(long, value_name = "W")]
    pub guidance: Option<f64>,
    /// Guidance only at noise levels sigma/alpha from LOW to HIGH
    #[arg(long, value_name = "LOW,HIGH", requires = "guidance")]
    pub guidance_interval: Option<String>,
    /// Another model as the guide: a smaller one, or a snapshot RUN@STEP (autoguidance); one of another process guides at
    /// the noise levels that both know
    #[arg(long, value_name = "MODEL", requires = "guidance")]
    pub guide: Option<String>,
}

impl Guiding {
    /// Errors if one was typed, for a density of a family, which is told no class.
    pub fn of_density(&self) -> Result<()> {
        for (option, typed) in [("class", self.class.is_some()), ("guidance", self.guidance.is_some())] {
            if typed {
                return usage(Usage::of(option, "a density of a family is told no class; leave it out"));
            }
        }
        Ok(())
    }

    /// What they ask for.
    pub fn asked(&self) -> Result<sample::Guiding> {
        let interval = self.guidance_interval.as_deref().map(interval).transpose()?;
        Ok(sample::Guiding { class: self.class.clone(), guidance: self.guidance, interval, guide: self.guide.clone() })
    }
}

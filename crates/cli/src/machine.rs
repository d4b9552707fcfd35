//! Where the work is done: the device and the number of threads.

use anyhow::Result;
use clap::Args;
use langevin::Device;
use langevin::error::{Usage, usage};
use langevin::ops::threads::MOST;

/// Where the work is done
#[derive(Args, Clone, Debug)]
pub struct Machine {
    /// cpu, cuda, cuda:N or metal
    #[arg(long, default_value = "cpu", global = true)]
    pub device: String,
    /// Threads to use [default: all cores]
    #[arg(long, global = true)]
    pub threads: Option<usize>,
}

impl Machine {
    /// Sets the number of threads and opens the device.
    pub fn open(&self) -> Result<Device> {
        if let Some(n) = self.threads.filter(|n| !(1..=MOST).contains(n)) {
            return usage(Usage::of("threads", format!("give 1 to {MOST}, best as many as there are cores")).value(n));
        }
        langevin::ops::threads::set(self.threads)?;
        langevin::ops::grad::init()?;
        let (kind, index) = self.device.split_once(':').unwrap_or((&self.device, "0"));
        let Ok(index) = index.parse() else {
            return usage(Usage::of("device", format!("`{index}` is no number of a device")).value(&self.device));
        };
        match kind {
            "cpu" => Ok(Device::Cpu),
            "cuda" if !candle_core::utils::cuda_is_available() => usage(
                Usage::of("device", "this program was built without CUDA; build it with --features cuda,cudnn")
                    .value("cuda"),
            ),
            "cuda" => Ok(Device::new_cuda(index)?),
            "metal" if !candle_core::utils::metal_is_available() => usage(
                Usage::of("device", "this program was built without Metal; build it with --features metal")
                    .value("metal"),
            ),
            "metal" => Ok(Device::new_metal(index)?),
            _ => usage(Usage::of("device", "use cpu, cuda, cuda:N or metal").value(&self.device)),
        }
    }
}

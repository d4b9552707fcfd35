//! The U-Net against diffusers' `UNet2DModel`, on random weights.
#![allow(clippy::print_stdout)]

mod common;

use candle_core::{DType, Device, Result};
use langevin_dynamics::{Cond, Net};
use langevin_models::{diffusers, plain, tensors};
use std::collections::BTreeMap;

#[test]
fn reference_unet() -> Result<()> {
    let (mut done, mut wrong) = (0, vec![]);
    for case in common::cases("unet") {
        let name = common::name(&case);
        let io = tensors::load(&case.join("io.safetensors"))?.tensors;
        let mut files: Vec<_> = std::fs::read_dir(&case)?.map(|e| e.unwrap().path()).collect();
        files.retain(|f| {
            f.extension().is_some_and(|e| e == "safetensors" || e == "bin") && !f.ends_with("io.safetensors")
        });
        files.sort();
        for weights in files {
            let file = common::name(&weights);
            let network = match diffusers::load(&case.join("config.json"), &weights, DType::F32, &Device::Cpu) {
                Err(e) if plain(&e).contains("not supported") => {
                    println!("unet/{name} {file}: UNSUPPORTED: {}", plain(&e));
                    continue;
                }
                network => network?,
            };
            let cond = Cond::class(io.get("class_labels").cloned());
            let output = network.net.forward(&io["sample"], &io["timestep"].to_dtype(DType::F32)?, &cond)?;
            let ours = BTreeMap::from([("output".to_string(), output)]);
            let (error, _) = common::error(&ours, &BTreeMap::from([("output".to_string(), io["output"].clone())]))?;
            println!("unet/{name} {file}: error {error:.1e}");
            done += 1;
            if error.is_nan() || error > 1e-4 {
                wrong.push(format!("{name} {file}: {error:.1e}"));
            }
        }
    }
    assert!(done > 0, "every case is unsupported");
    assert!(wrong.is_empty(), "above 1e-4: {wrong:?}");
    Ok(())
}

//! Any text as a `config.json`: a configuration whose network can be counted, or one sentence.
//!
//! From crates/models: `RUSTC_BOOTSTRAP=1 cargo fuzz run config`.
#![no_main]

use candle_core::{DType, Device};
use langevin_models::diffusers::Config;
use langevin_models::{params::Params, plain, unet::UNet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let result = Config::from_json(text).and_then(|c| {
        let vb = Params::counting().builder(DType::F32, &Device::Cpu);
        UNet::new(&c.unet, c.inputs, c.outputs, c.classes, vb)
    });
    if let Err(e) = result {
        assert_eq!(plain(&e).lines().count(), 1, "{}", plain(&e));
    }
});

//! What models are measured by. Nothing here trains or prints: functions take models of `langevin-dynamics` and give numbers.

pub mod psnr;
pub mod ssim;

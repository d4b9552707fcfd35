//! PSNR and SSIM against scikit-image 0.26 and by their definitions.

use candle_core::{DType, Device, Result, Tensor};
use langevin_eval::psnr::psnr;
use langevin_eval::ssim::ssim;

const SHAPE: (usize, usize, usize, usize) = (1, 2, 20, 24);

/// Pictures by formula: waves, and the same with others on them.
fn pair() -> Result<(Tensor, Tensor)> {
    let (mut a, mut b) = (vec![], vec![]);
    for n in 0..2 * 20 * 24 {
        let (c, i, j) = ((n / 480) as f64, (n / 24 % 20) as f64, (n % 24) as f64);
        let wave = (0.37 * i + 0.5 * c).sin() * (0.23 * j).cos();
        a.push(wave);
        b.push(0.8 * wave + 0.15 * (1.3 * i * 0.7 + 0.9 * j + c).sin());
    }
    Ok((Tensor::from_vec(a, SHAPE, &Device::Cpu)?, Tensor::from_vec(b, SHAPE, &Device::Cpu)?))
}

#[test]
fn as_scikit_image_has_them() -> Result<()> {
    let (a, b) = pair()?;
    // structural_similarity(a, b, data_range=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    let similar = [0.836390463919555, 0.8315268699868565];
    // peak_signal_noise_ratio(a, b, data_range=2)
    let ratios = [22.983319945046993, 22.785751307173037];
    for c in 0..2 {
        let (a, b) = (a.narrow(1, c, 1)?, b.narrow(1, c, 1)?);
        assert!((ssim(&a, &b, 2.)?[0] - similar[c]).abs() < 1e-12, "{:?}", ssim(&a, &b, 2.)?);
        assert!((psnr(&a, &b, 2.)?[0] - ratios[c]).abs() < 1e-11, "{:?}", psnr(&a, &b, 2.)?);
    }
    // of channels the mean, of images each
    assert!((ssim(&a, &b, 2.)?[0] - (similar[0] + similar[1]) / 2.).abs() < 1e-12);
    let both = ssim(&Tensor::cat(&[&a, &a], 0)?, &Tensor::cat(&[&b, &a], 0)?, 2.)?;
    assert!((both[0] - ssim(&a, &b, 2.)?[0]).abs() < 1e-12 && (both[1] - 1.).abs() < 1e-12);
    Ok(())
}

#[test]
fn of_the_same_and_of_what_is_none() -> Result<()> {
    let (a, b) = pair()?;
    assert_eq!(psnr(&a, &a, 2.)?, [f64::INFINITY]);
    // an error of 0.2 everywhere, of a range of 2: 10 log10(4 / 0.04)
    assert!((psnr(&a, &(&a + 0.2)?, 2.)?[0] - 20.).abs() < 1e-9);
    assert!(psnr(&a, &b.narrow(1, 0, 1)?, 2.).is_err() && ssim(&a, &b.narrow(1, 0, 1)?, 2.).is_err());
    let small = Tensor::zeros((1, 1, 10, 24), DType::F64, &Device::Cpu)?;
    assert!(ssim(&small, &small, 2.).unwrap_err().to_string().contains("11 pixels"));
    Ok(())
}

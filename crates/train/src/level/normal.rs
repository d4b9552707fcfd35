//! The quantile function of the standard normal distribution, to about 1e-16. \[Wichura88, PPND16\]

/// Phi^-1(p), for 0 < p < 1; outside, the value at the nearest f64 inside.
pub fn quantile(p: f64) -> f64 {
    let p = p.clamp(f64::MIN_POSITIVE, 1. - f64::EPSILON / 2.);
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180625 - q * q;
        return q * horner(&CENTRE.0, r) / horner(&CENTRE.1, r);
    }
    let r = (-(if q < 0. { p } else { 1. - p }).ln()).sqrt();
    let (piece, r) = if r <= 5. { (&MIDDLE, r - 1.6) } else { (&TAIL, r - 5.) };
    (horner(&piece.0, r) / horner(&piece.1, r)).copysign(q)
}

/// Coefficients from the highest power down.
fn horner(coefficients: &[f64; 8], r: f64) -> f64 {
    coefficients.iter().fold(0., |sum, c| sum * r + c)
}

type Ratio = ([f64; 8], [f64; 8]);

const CENTRE: Ratio = (
    [
        2509.0809287301227,
        33430.57558358813,
        67265.7709270087,
        45921.95393154987,
        13731.69376550946,
        1971.5909503065513,
        133.14166789178438,
        3.3871328727963665,
    ],
    [
        5226.495278852854,
        28729.085735721943,
        39307.89580009271,
        21213.794301586597,
        5394.196021424751,
        687.1870074920579,
        42.31333070160091,
        1.0,
    ],
);
const MIDDLE: Ratio = (
    [
        0.0007745450142783414,
        0.022723844989269184,
        0.2417807251774506,
        1.2704582524523684,
        3.6478483247632045,
        5.769497221460691,
        4.630337846156546,
        1.4234371107496835,
    ],
    [
        1.0507500716444169e-09,
        0.0005475938084995345,
        0.015198666563616457,
        0.14810397642748008,
        0.6897673349851,
        1.6763848301838038,
        2.053191626637759,
        1.0,
    ],
);
const TAIL: Ratio = (
    [
        2.0103343992922881e-07,
        2.7115555687434876e-05,
        0.0012426609473880784,
        0.026532189526576124,
        0.29656057182850487,
        1.7848265399172913,
        5.463784911164114,
        6.657904643501103,
    ],
    [
        2.0442631033899397e-15,
        1.421511758316446e-07,
        1.8463183175100548e-05,
        0.0007868691311456133,
        0.014875361290850615,
        0.1369298809227358,
        0.599832206555888,
        1.0,
    ],
);

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn known_values() {
        // of the standard library of Python (the same algorithm) and of tables
        for (p, x) in [
            (0.5, 0.),
            (0.975, 1.959963984540054),
            (0.025, -1.959963984540054),
            (0.9, 1.2815515655446004),
            (1e-10, -6.361340902404056),
            (0.001, -3.090232306167813),
        ] {
            assert!((quantile(p) - x).abs() < 1e-14 * (1. + x.abs()), "{p}: {} for {x}", quantile(p));
        }
        assert!(quantile(0.).is_finite() && quantile(1.).is_finite());
    }
}

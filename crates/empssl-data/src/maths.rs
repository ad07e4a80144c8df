//! Elementary functions that give the same bits on every machine.
//!
//! The system's `sin`, `exp` and `ln` may differ in the last bit from one C library to the next. These use additions,
//! multiplications and divisions only, which IEEE 754 rounds alike everywhere.

/// sin(2 pi `turns`), to about 1e-9.
pub(crate) fn sin_turns(turns: f64) -> f64 {
    // Folded onto a quarter turn either side of zero, where the series converges fast.
    let turns = turns - (turns + 0.5).floor();
    let turns = if turns.abs() > 0.25 { 0.5_f64.copysign(turns) - turns } else { turns };
    let x = turns * std::f64::consts::TAU;
    let square = x * x;
    const SERIES: [f64; 7] =
        [1.0, -1.0 / 6.0, 1.0 / 120.0, -1.0 / 5_040.0, 1.0 / 362_880.0, -1.0 / 39_916_800.0, 1.0 / 6_227_020_800.0];
    x * SERIES.iter().rev().fold(0.0, |sum, term| sum * square + term)
}

/// cos(2 pi `turns`), to about 1e-9.
pub(crate) fn cos_turns(turns: f64) -> f64 {
    sin_turns(turns + 0.25)
}

/// e^`x` for moderate `x`.
pub(crate) fn exp(x: f64) -> f64 {
    if x == 0.0 {
        // The crops of the 32-pixel recipe ask for this one only.
        return 1.0;
    }
    // e^x = (e^(x/1024))^1024: the series of the small argument, squared ten times.
    let small = x / 1024.0;
    let series = (1..=6).rev().fold(1.0, |sum, n| 1.0 + sum * small / f64::from(n));
    (0..10).fold(series, |power, _| power * power)
}

/// The natural logarithm of a positive, moderate `x`.
pub(crate) fn ln(x: f64) -> f64 {
    // Halley's iteration on e^y = x: the error is cubed in every round.
    (0..12).fold(0.0, |y, _| {
        let power = exp(y);
        y + 2.0 * (x - power) / (x + power)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_agree_with_the_standard_library() {
        for step in -400..=400 {
            let x = f64::from(step) / 100.0;
            assert!((sin_turns(x) - (x * std::f64::consts::TAU).sin()).abs() < 1e-8, "sin of {x} turns");
            assert!((cos_turns(x) - (x * std::f64::consts::TAU).cos()).abs() < 1e-8, "cos of {x} turns");
            assert!((exp(x) / x.exp() - 1.0).abs() < 1e-12, "exp({x})");
            assert!((ln(x.exp()) - x).abs() < 1e-12, "ln(e^{x})");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(ln(1.0), 0.0);
    }
}

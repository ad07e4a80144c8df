//! Means over the first patches of each image, and outputs by name.

use std::cell::RefCell;

use empssl_golden::assert_close;

use super::*;
use crate::features::{FEATURES, pixels};
use crate::testing::{OPTIONS, patches, refusal, values};

/// Gives the pixels, their squares and a constant, and notes what was asked for.
#[derive(Default)]
struct Three {
    asked: RefCell<Vec<String>>,
}

impl FeatureExtractor for Three {
    fn outputs(&self) -> Vec<&str> {
        vec!["pixels", "squares", "ones"]
    }

    fn extract(&self, patches: &Tensor, wanted: &[&str]) -> Vec<Tensor> {
        self.asked.borrow_mut().push(wanted.join(" "));
        let pixels = pixels(patches);
        let give = |name: &&str| match *name {
            "squares" => pixels.square().narrow(1, 0, 2),
            "ones" => pixels.ones_like().narrow(1, 0, 1),
            _ => pixels.shallow_clone(),
        };
        wanted.iter().map(give).collect()
    }
}

fn kept(outputs: &[&str], counts: &[i64]) -> Kept {
    Kept { outputs: outputs.iter().map(|name| (*name).to_owned()).collect(), counts: counts.to_vec() }
}

/// The means of one batch.
fn means(extractor: &dyn FeatureExtractor, batch: PatchBatch, kept: &Kept, options: &BankOptions) -> Vec<Vec<Tensor>> {
    let mut all = Vec::new();
    extract_features(extractor, [Ok(batch)], kept, options, &mut |batch| {
        all.push(batch.means);
        Ok(())
    })
    .unwrap();
    all.pop().unwrap()
}

#[test]
fn a_mean_over_the_first_patches_is_the_plain_mean_however_they_are_spread_over_calls() {
    let labels = [0, 1, 2, 3, 0];
    let whole = values(&to_device(&patches(13, &labels), Device::Cpu));
    // [patch][image * 3 + channel]
    let plain = |count: usize, place: usize| {
        (0..count).map(|patch| whole[patch * 15 + place] / 127.5 - 1.0).sum::<f64>() / count as f64
    };
    for patches_per_call in [1, 5, 10, 35, 1000] {
        for (kind, tolerance) in [(Kind::Double, 1e-15), (Kind::Float, 6e-8)] {
            let options = BankOptions { patches_per_call, kind, ..OPTIONS };
            let means = means(&pixels, patches(13, &labels), &kept(&[FEATURES], &[1, 2, 4, 8, 13]), &options);
            for (count, mean) in [1, 2, 4, 8, 13].into_iter().zip(&means[0]) {
                let expected: Vec<f64> = (0..15).map(|place| plain(count, place)).collect();
                assert_close(&format!("{count} patches"), &values(mean), &expected, tolerance);
                assert_eq!(mean.kind(), kind);
            }
        }
    }
}

const POWERS: [i64; 7] = [1, 2, 4, 8, 16, 32, 64];

#[test]
fn a_pass_over_many_patches_holds_the_bits_of_a_pass_over_few() {
    let wave = |patches: &Tensor| (pixels(patches) * 37.7).sin() * 1e3;
    let options = BankOptions { kind: Kind::Float, patches_per_call: 10, ..OPTIONS };
    let many = means(&wave, patches(64, &[0, 1]), &kept(&[FEATURES], &POWERS), &options);
    for (count, mean) in POWERS.into_iter().zip(&many[0]) {
        let few = means(
            &wave,
            patches(64, &[0, 1]),
            &kept(&[FEATURES], &[count]),
            &BankOptions { patches_per_call: 2, ..options.clone() },
        );
        assert_eq!(values(mean), values(&few[0][0]), "{count} patches");
    }
}

#[test]
fn several_outputs_come_from_one_call_and_only_those_asked_for() {
    let three = Three::default();
    let options = BankOptions { patches_per_call: 1000, ..OPTIONS };
    let all = means(&three, patches(4, &[0, 1]), &kept(&["squares", "pixels"], &[2, 4]), &options);
    assert_eq!(*three.asked.borrow(), ["squares pixels"; 2]);
    let widths: Vec<i64> = all.iter().map(|means| means[1].size()[1]).collect();
    assert_eq!(widths, [2, 3]);
    let alone = means(&three, patches(4, &[0, 1]), &Kept::scored(&three, &[4]), &options);
    assert_eq!(three.asked.borrow().last().unwrap(), "pixels");
    assert_close("alone", &values(&alone[0][0]), &values(&all[1][1]), 1e-15);
}

#[test]
fn outputs_counts_and_batches_that_do_not_fit_are_refused() {
    let walked = |kept: &Kept, n| {
        refusal(extract_features(&Three::default(), [Ok(patches(n, &[0]))], kept, &OPTIONS, &mut |_| Ok(())))
    };
    let unknown = walked(&kept(&["pixels", "colours"], &[1]), 1);
    assert_eq!(unknown, "the encoder has no output `colours`; it has pixels, squares, ones");
    assert!(walked(&kept(&[], &[1]), 1).starts_with("`outputs` must be at least one"));
    for counts in [&[][..], &[0], &[2, 2], &[2, 1]] {
        assert!(walked(&kept(&["ones"], counts), 4).starts_with("`counts` must be increasing"), "{counts:?}");
    }
    let message = walked(&kept(&["ones"], &[4]), 3);
    assert_eq!(message, "the patches of a batch must be [at least 4, b, 3, s, s], found [3, 1, 3, 1, 1]");
    struct Forgetful;
    impl FeatureExtractor for Forgetful {
        fn outputs(&self) -> Vec<&str> {
            vec!["a", "b"]
        }
        fn extract(&self, patches: &Tensor, _wanted: &[&str]) -> Vec<Tensor> {
            vec![pixels(patches)]
        }
    }
    let message =
        refusal(extract_features(&Forgetful, [Ok(patches(1, &[0]))], &kept(&["a", "b"], &[1]), &OPTIONS, &mut |_| {
            Ok(())
        }));
    assert_eq!(message, "`outputs` must be as many as were wanted of the extractor, found 1");
}

#[test]
fn time_is_told_for_every_count_and_grows_with_it() {
    let slow = |patches: &Tensor| {
        std::thread::sleep(Duration::from_millis(3));
        pixels(patches)
    };
    let options = BankOptions { patches_per_call: 1, ..OPTIONS };
    let seconds = extract_features(
        &slow,
        [Ok(patches(4, &[0])), Ok(patches(4, &[1]))],
        &kept(&[FEATURES], &[1, 4]),
        &options,
        &mut |_| Ok(()),
    );
    let seconds = seconds.unwrap();
    assert!(seconds[0] >= 0.006 && seconds[1] >= 0.024 && seconds[0] < seconds[1], "{seconds:?}");
}

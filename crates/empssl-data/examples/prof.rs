//! scratch
use empssl_data::*;
use empssl_data::augment::*;
use empssl_data::augment::resample::*;
use std::hint::black_box;
fn time(name: &str, mut f: impl FnMut()) { let mut best = f64::MAX; for _ in 0..30 { let t = std::time::Instant::now(); for _ in 0..300 { f(); } best = best.min(t.elapsed().as_secs_f64() / 300.0); } println!("{name}: {:.2} us", best * 1e6); }
fn main() {
    let o = OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
    let d = open(&o, Split::Test).unwrap();
    let s = PatchSampler::new(&PatchConfig::cifar32()).unwrap();
    let mut out = vec![0u8; 3072];
    let mut sc = ResizeScratch::default();
    let im = d.image(7).unwrap();
    time("image", || { black_box(d.image(7).unwrap()); });
    let mut k = 0; time("draw", || { k += 1; black_box(s.draw(32, 32, PatchKey { seed: 0, epoch: 0, image: 3, patch: k })); });
    time("crop", || resized_crop(im.view(), CropBox { top: 3, left: 4, height: 16, width: 16 }, 32, Interpolation::Bilinear, false, &mut sc, &mut out));
    let base = out.clone();
    time("copy", || out.copy_from_slice(black_box(&base)));
    time("brightness", || { colour::brightness(&mut out, black_box(1.01)) }); out.copy_from_slice(&base);
    time("contrast", || { colour::contrast(&mut out, black_box(1.01)) }); out.copy_from_slice(&base);
    time("saturation+copy", || { out.copy_from_slice(&base); colour::saturation(&mut out, black_box(1.11)) }); out.copy_from_slice(&base);
    time("hue+copy", || { out.copy_from_slice(&base); hue::rotate_hue(&mut out, black_box(0.11)) }); out.copy_from_slice(&base);
    time("gray", || { colour::grayscale(&mut out) }); out.copy_from_slice(&base);
    time("solarize", || { colour::solarize(&mut out, black_box(128)) }); out.copy_from_slice(&base);
    let mut b = blur::BlurScratch::default();
    time("blur 1.3", || { blur::blur(&mut out, 32, black_box(1.3), &mut b) }); out.copy_from_slice(&base);
    let mut k = 0; time("sample", || { k += 1; s.sample(im.view(), PatchKey { seed: 0, epoch: 0, image: 3, patch: k }, &mut out); });
}

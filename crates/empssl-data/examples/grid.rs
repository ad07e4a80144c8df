//! scratch
use empssl_data::*;
fn main() { dump();
    let o = OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
    let t = std::time::Instant::now();
    let d = open(&o, Split::Train).unwrap();
    println!("{:?} {}", t.elapsed(), d.description());
    open(&o, Split::Test).unwrap();
    println!("{:?}", t.elapsed());
    let s = PatchSampler::new(&PatchConfig::cifar32()).unwrap();
    let idx: Vec<usize> = (0..20).map(|i| (i % 10) + 10 * (i / 10)).collect();
    picture::patch_grid(&d, &s, &idx[..10], 8, 0).unwrap().save("/tmp/patches.png").unwrap();
    let mut plain = PatchConfig::cifar32(); plain.crop_scale = [1.0, 1.0]; plain.flip_p = 0.; plain.jitter_p = 0.; plain.grayscale_p = 0.; plain.blur_p = 0.; plain.solarize_p = 0.;
    // a grid of whole images: 10 classes x 10
    let mut img = image::RgbImage::new(10 * 100, 10 * 100);
    for c in 0..10 { for k in 0..10 {
        let im = d.image(c + 10 * k).unwrap();
        for y in 0..96u32 { for x in 0..96u32 {
            let p = |ch| im[[(y / 3) as usize, (x / 3) as usize, ch]];
            img.put_pixel(k as u32 * 100 + x, c as u32 * 100 + y, image::Rgb([p(0), p(1), p(2)]));
        }}
    }}
    img.save("/tmp/synthetic.png").unwrap();
}
#[allow(dead_code)]
fn dump() {
    for (split, name) in [(Split::Train, "train"), (Split::Test, "test")] {
        let o = OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
        let d = open(&o, split).unwrap();
        let mut all = Vec::new();
        for i in 0..d.len() { let im = d.image(i).unwrap(); all.extend(im.iter().copied()); }
        std::fs::write(format!("/tmp/synth_{name}.bin"), all).unwrap();
    }
}

//! scratch
use empssl_data::*;
use std::io::Write;
fn main() {
    let s = PatchSampler::new(&PatchConfig::cifar32()).unwrap();
    for (split, name, images, n, epoch) in [(Split::Train, "stream", 10000, 4, 0), (Split::Train, "stream1", 10000, 4, 1),(Split::Train, "train", 4000, 8, 99), (Split::Test, "test", 2000, 8, 99)] {
        let o = OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
        let d = open(&o, split).unwrap().subset(&(0..images).collect::<Vec<_>>()).unwrap();
        let order = if name.starts_with("stream") { Order::Shuffled } else { Order::Sequential };
        let c = LoaderConfig { n_patches: n, batch_size: 100, view: View::Augmented, order, drop_last: true, seed: 0, epoch, first_batch: 0, n_workers: 2, prefetch: 2 };
        let t = std::time::Instant::now();
        let mut f = std::fs::File::create(format!("/tmp/patches_{name}.bin")).unwrap();
        for b in PatchLoader::new(&d, &s, &c).unwrap() { f.write_all(b.unwrap().patches.as_slice().unwrap()).unwrap(); }
        println!("{name} {:?}", t.elapsed());
    }
}

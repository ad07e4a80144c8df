//! scratch
use empssl_data::*;
fn main() {
    for src in ["target/shared-data/cifar10-jpeg/train/airplane/0317.jpg", "target/shared-data/imagenet-photos/val/n02086240/n02086240_Shih-Tzu.JPEG"] {
    let b = std::fs::read(src).unwrap();
    let n = b.len();
    let mut z = b.clone(); for x in &mut z[n / 2..n / 2 + 100] { *x = 0; }
    let mut g = b.clone(); for (i, x) in g[n / 2..n / 2 + 200].iter_mut().enumerate() { *x = (i * 37 % 251) as u8; }
    let mut f = b.clone(); for x in &mut f[n / 2..n / 2 + 50] { *x = 0xff; }
    for (name, bytes) in [("half", b[..n / 2].to_vec()), ("90%", b[..n * 9 / 10].to_vec()), ("-10", b[..n - 10].to_vec()), ("no EOI", b[..n - 2].to_vec()), ("zeros", z), ("garbage", g), ("ff", f), ("header only", b[..200].to_vec()), ("empty", vec![]), ("trailing", [b.clone(), vec![0; 100]].concat())] {
        let dir = std::path::Path::new("/tmp/corrupt/train/x");
        std::fs::remove_dir_all("/tmp/corrupt").ok();
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("a.jpg"), bytes).unwrap();
        let r = open(&OpenOptions { name: "folder".into(), root: Some("/tmp/corrupt".into()), partial: false, on_bad_image: OnBadImage::Skip }, Split::Train);
        println!("{name}: {}", match r { Ok(d) => format!("ok {}", d.len()), Err(e) => e.to_string() });
        std::fs::copy(dir.join("a.jpg"), format!("/tmp/c_{name}_{n}.jpg")).unwrap();
    }}
}

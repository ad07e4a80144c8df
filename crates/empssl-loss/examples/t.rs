//! tmp
use empssl_loss::*;
use tch::*;
fn main() {
    let loss = EmpSslLoss::new(&EmpSslLossConfig::paper()).unwrap();
    println!("threads {}", tch::get_num_threads());
    for s in [[20i64, 100, 1024], [200, 100, 1024], [20, 100, 512], [5, 512, 128]] {
        let z = Tensor::randn(s, (Kind::Float, Device::Cpu));
        let z = &z / z.norm_scalaropt_dim(2, [2i64].as_slice(), true);
        let mut t: Vec<f64> = (0..30)
            .map(|_| {
                let leaf = z.detach().set_requires_grad(true);
                let t = std::time::Instant::now();
                loss.backward(&leaf).unwrap();
                t.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        t.sort_by(f64::total_cmp);
        println!("{s:?} min {:.2} p25 {:.2} med {:.2} max {:.2}", t[0], t[7], t[15], t[29]);
    }
}
